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

from distrain_trainer.console import say
from distrain_trainer.data.conversations import as_text
from distrain_trainer.data.plan import cut
from distrain_trainer.data.sources import TEXT_COLUMNS, find_column, locate, read
from distrain_trainer.data.tokens import Rows, encode
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.generate import answer, greedy, prompt_of, question_of
from distrain_trainer.inference.trained import Trained, load

CHUNK = 4096
"""Texts that are read, sorted by length and predicted at a time."""
TOP = 5
"""Tokens that are listed for each mask."""


def predict_folder(path: str, file: str | None, output: str | None, max_new_tokens: int) -> None:
    """Writes one JSON object per text, in order. file: None for lines of stdin. output: None for stdout."""
    if file is not None and not Path(file).exists():
        raise DataError(f"{file} does not exist; check the path")
    trained = load(path, {})
    with open_output(output) as target:
        for predictions in predictions_for(trained, file, max_new_tokens):
            for prediction in predictions:
                target.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            target.flush()


def predictions_for(trained: Trained, file: str | None, max_new_tokens: int) -> Iterator[list[dict[str, Any]]]:
    """The predictions for `file` or stdin, in the lists in which they are made."""
    if trained.settings.task == "chat":
        for where, row in read_conversations(trained, file):
            conversation = question_of(row, trained.settings.chat, where)
            text = answer(trained, prompt_of(trained.tokenizer, conversation, where), max_new_tokens, where)
            yield [{"messages": conversation.messages, "answer": text}]
        return
    predictors: dict[str, Callable[[Trained, list[str]], list[dict[str, Any]]]] = {
        "sequence-classification": classify,
        "masked-lm": fill_masks,
        "causal-lm": lambda trained, texts: continue_texts(trained, texts, max_new_tokens),
    }
    for texts in in_chunks(read_texts(trained, file)):
        yield predictors[trained.settings.task](trained, texts)


def classify(trained: Trained, texts: list[str]) -> list[dict[str, Any]]:
    """{"text", "label", "score", "scores"} of each text; scores maps each label to its probability."""
    assert trained.labels is not None
    found: list[dict[str, Any]] = [{}] * len(texts)
    for indices, logits in batches(trained, texts):
        for index, scores in zip(indices, logits.float().softmax(-1).tolist(), strict=True):
            best = int(np.argmax(scores))
            named = {label: round(score, 6) for label, score in zip(trained.labels, scores, strict=True)}
            found[index] = {
                "text": texts[index],
                "label": trained.labels[best],
                "score": named[trained.labels[best]],
                "scores": named,
            }
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


def read_texts(trained: Trained, file: str | None) -> Iterator[str]:
    """Lines of stdin or of a .txt file, or the text column of a data file."""
    if file is None:
        yield from (line.removesuffix("\n") for line in sys.stdin)
    elif file.endswith(".txt"):
        with Path(file).open(encoding="utf-8-sig") as lines:
            yield from (line.removesuffix("\n") for line in lines)
    else:
        data = trained.settings_for(file).data
        with TemporaryDirectory(prefix="distrain-") as scratch:
            rows = read(data, locate(data), trained.settings.task, Path(scratch), say).train
            column = find_column(rows, data.text_column, TEXT_COLUMNS, "data.text_column")
            for row in rows.select_columns(column):
                yield row[column] or ""


def read_conversations(trained: Trained, file: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`line 3`, the row) of a data file, or of JSON lines on stdin, each an object or a list of messages."""
    if file is None:
        for number, line in enumerate(filter(str.strip, sys.stdin), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"line {number} is not JSON ({error}); give one object with messages per line"
                ) from error
            row = row if isinstance(row, dict) else {"messages": row}
            yield f"line {number}", {name: as_text(value) for name, value in row.items()}
        return
    data = trained.settings_for(file).data
    with TemporaryDirectory(prefix="distrain-") as scratch:
        for number, row in enumerate(read(data, locate(data), "chat", Path(scratch), say).train, 1):
            yield f"{file} row {number}", row


def in_chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of up to CHUNK texts; of one text where stdin is a terminal, so that each line is answered at once."""
    chunk: list[str] = []
    size = 1 if sys.stdin.isatty() else CHUNK
    for text in texts:
        chunk.append(text)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


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
