"""Predict with a trained model: one JSON object per line of text, or per row of a file. One process."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch

from distrain_trainer.console import a_few
from distrain_trainer.data.conversations import as_text
from distrain_trainer.data.files import open_files, resolve_files
from distrain_trainer.data.plan import cut
from distrain_trainer.data.readers import Row, format_of, not_utf8, rows_of_file
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.table import batched, find_column
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hub.errors import first_line
from distrain_trainer.inference.generate import answer, greedy, prompt_of, question_of
from distrain_trainer.inference.trained import Trained, load, tell_model
from distrain_trainer.tasks.table import TASKS

CHUNK = 4096
"""Texts that are read, sorted by length and predicted at a time."""
TOP = 5
"""Tokens that are listed for each mask."""
Show = Callable[[np.ndarray, tuple[str, ...]], dict[str, Any]]
"""What a task shows of a row's logits, by the names of the labels."""


def predict_folder(
    path: str,
    file: str | None,
    output: str | None,
    max_new_tokens: int,
    flags: dict[str, str] | None = None,
    checkpoint: str | None = None,
    keep_columns: bool = False,
) -> None:
    """Writes one JSON object per text, in order.

    file: None for lines of stdin. output: None for stdout. flags: settings to change, such as data.text_column.
    checkpoint: which of a run's models to take. keep_columns: add each row of the file, as `row`.
    """
    if file is not None and not Path(file).exists():
        raise DataError(f"{file} does not exist; check the path")
    trained = load(path, flags or {}, checkpoint)
    tell_model(path, trained.folder)
    with open_output(output) as target:
        for predictions in predictions_for(trained, file, max_new_tokens, keep_columns):
            for prediction in predictions:
                target.write(json.dumps(prediction, ensure_ascii=False, default=str) + "\n")
            target.flush()


def predictions_for(
    trained: Trained, file: str | None, max_new_tokens: int, keep_columns: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """The predictions for `file` or stdin, in the lists in which they are made."""
    facts, labelled = trained.settings.facts, TASKS[trained.settings.task].labelled
    if facts.holds == "messages":
        for where, row in conversations_in(trained, file):
            as_texts = {name: as_text(value) for name, value in row.items()}
            conversation = question_of(as_texts, trained.settings.chat, where)
            text = answer(trained, prompt_of(trained.tokenizer, conversation, where), max_new_tokens, where)
            yield [{"messages": conversation.messages, "answer": text} | ({"row": row} if keep_columns else {})]
        return
    for chunk in in_chunks(texts_in(trained, file)):
        texts = [text for text, _ in chunk]
        if labelled:
            made = label_texts(trained, texts, labelled.show)
        else:
            made = continue_texts(trained, texts, max_new_tokens) if facts.causal else fill_masks(trained, texts)
        if keep_columns:
            made = [prediction | {"row": row} for prediction, (_, row) in zip(made, chunk, strict=True)]
        yield made


def label_texts(trained: Trained, texts: list[str], show: Show) -> list[dict[str, Any]]:
    """{"text"} of each text, and what the task shows of its logits."""
    found: list[dict[str, Any]] = [{}] * len(texts)
    for indices, logits in batches(trained, texts):
        for index, row in zip(indices, logits.double().numpy(), strict=True):
            found[index] = {"text": texts[index]} | show(row, trained.labels)
    return found


def fill_masks(trained: Trained, texts: list[str]) -> list[dict[str, Any]]:
    """{"text", "masks"} of each text: for each mask token the TOP likeliest tokens with their probabilities."""
    found: list[dict[str, Any]] = [{"text": text, "masks": []} for text in texts]
    mask = trained.tokenizer.mask_token_id
    encoded = encode(texts, trained.settings, trained.tokenizer, trained.max_length)
    for indices, logits in batches(trained, texts, encoded):
        for row, index in enumerate(indices):
            ids = encoded.input_ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            for position in np.flatnonzero(ids == mask):
                top = logits[row, int(position)].float().softmax(-1).topk(TOP)
                tokens = trained.tokenizer.convert_ids_to_tokens(top.indices.tolist())
                pairs = zip(tokens, top.values.tolist(), strict=True)
                found[index]["masks"].append([{"token": t, "score": round(s, 6)} for t, s in pairs])
    return found


def continue_texts(trained: Trained, texts: list[str], max_new_tokens: int) -> list[dict[str, Any]]:
    """{"text", "continuation"} of each text, by greedy decoding."""
    found = []
    for text in texts:
        prompt = trained.tokenizer(text, truncation=True, max_length=trained.max_length)["input_ids"]
        new = greedy(trained, prompt, max_new_tokens)
        found.append({"text": text, "continuation": trained.tokenizer.decode(new, skip_special_tokens=True)})
    return found


def batches(trained: Trained, texts: list[str], rows: Rows | None = None) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(indices of the texts, logits on the CPU) of micro-batches of texts of similar length."""
    rows = rows or encode(texts, trained.settings, trained.tokenizer, trained.max_length)
    micro_batches = cut(rows.lengths, np.arange(len(rows)), trained.settings.batch.limit, samples=None)
    pad = trained.tokenizer.pad_token_id
    for number in range(len(micro_batches)):
        indices = micro_batches[number]
        shape = len(indices), max(int(rows.lengths[indices].max()), 1)
        ids, mask = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
        for row, index in enumerate(indices):
            tokens = rows.input_ids[rows.offsets[index] : rows.offsets[index + 1]]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        with trained.inference():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            logits = trained.model(**{name: tensor.to(trained.device) for name, tensor in inputs.items()}).logits
        yield indices.tolist(), logits.cpu()


def texts_in(trained: Trained, file: str | None) -> Iterator[tuple[str, Row]]:
    """(text, its row) of the lines of stdin or a text file, or of the rows of a data file."""
    if file is None:
        yield from ((line, {"text": line}) for line in stdin_lines())
        return
    lines = Path(file).is_file() and format_of(Path(file)) == "text"
    wanted, column = trained.settings.data.text_column, "text" if lines else None
    for where, row in rows_in(trained, file):
        if column is None:
            column = find_column(row, wanted, trained.settings.facts.text_columns, "data.text_column", (Path(file),))
        text = row.get(column)
        if not isinstance(text, str | None):
            raise DataError(
                f"{file}, {where}: column '{column}' holds {type(text).__name__}, not text; name another "
                "data.text_column"
            )
        yield text or "", row


def rows_in(trained: Trained, file: str) -> Iterator[tuple[str, Row]]:
    """(`line 3`, the row) of a data file, or of the one split of a folder that save_to_disk wrote."""
    (path,) = resolve_files([file], "FILE")
    data = trained.settings.data
    if not path.is_dir():
        yield from rows_of_file(path, {}, None, data.delimiter, "line")
        return
    with TemporaryDirectory(prefix="distrain-") as scratch:
        opened = open_files([path], data, (), Path(scratch))
        if isinstance(opened, dict):
            raise DataError(f"{file} holds several splits; name the folder of one: {a_few(opened)}")
        yield from ((f"row {number}", row) for number, row in enumerate(opened.rows, 1))


def conversations_in(trained: Trained, file: str | None) -> Iterator[tuple[str, Row]]:
    """(place, the row) of a data file, or of JSON lines on stdin, each an object or a list of messages."""
    if file is not None:
        yield from ((f"{file}, {where}", row) for where, row in rows_in(trained, file))
        return
    for number, line in enumerate(stdin_lines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"stdin, line {number} is not JSON ({first_line(error)}); give one object with messages per line"
            ) from error
        yield f"stdin, line {number}", row if isinstance(row, dict) else {"messages": row}


def stdin_lines() -> Iterator[str]:
    """The lines of stdin; DataError where one is not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if told := not_utf8(line):
            raise DataError(f"stdin, line {number}: {told}; convert it, such as with iconv -f WINDOWS-1252 -t UTF-8")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")


def in_chunks(rows: Iterator[tuple[str, Row]]) -> Iterator[list[tuple[str, Row]]]:
    """Lists of up to CHUNK texts; of one text where stdin is a terminal, so that each line is answered at once."""
    return batched(rows, 1 if sys.stdin.isatty() else CHUNK)


@contextmanager
def open_output(output: str | None) -> Iterator[IO[str]]:
    """The file to write to, or stdout. Raises SettingsError where it cannot be written."""
    if output is None:
        yield sys.stdout
        return
    try:
        Path(output).touch()
    except OSError as error:
        raise SettingsError(f"--output {output} cannot be written: {error.strerror}; give another file") from None
    with Path(output).open("w", encoding="utf-8") as file:
        yield file
