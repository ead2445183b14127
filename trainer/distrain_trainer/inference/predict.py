"""Predict with a trained model: one JSON object per line of text, or per row of a file. One process."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from distrain_trainer.bars import Advance, progress, unseen
from distrain_trainer.data.conversations import as_text
from distrain_trainer.data.inputs import Input
from distrain_trainer.data.loader import padded
from distrain_trainer.data.plan import cut
from distrain_trainer.data.readers import Row
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.targets import target_batch
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.generate import answer, generate, prompt_of, question_of
from distrain_trainer.inference.inputs import conversations_in, in_chunks, inputs_in
from distrain_trainer.inference.sampling import GREEDY, Sampling
from distrain_trainer.inference.tool_calls import tool_calls_in
from distrain_trainer.inference.trained import Trained, load, tell_model
from distrain_trainer.models.loss import written
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.tasks.table import TASKS

TOP = 5
"""Tokens that are listed for each mask."""
ANSWER = 64
"""Tokens of an answer at most, where nothing else is said."""
Show = Callable[[np.ndarray, tuple[str, ...]], dict[str, Any]]
"""What a task shows of a row's logits, by the names of the labels."""


def predict_folder(
    path: str,
    file: str | None,
    output: str | None,
    max_new_tokens: int | None,
    flags: dict[str, str] | None = None,
    checkpoint: str | None = None,
    keep_columns: bool = False,
    sampling: Sampling = GREEDY,
) -> None:
    """Writes one JSON object per text, in order.

    file: None for lines of stdin. output: None for stdout. flags: settings to change, such as data.text_column.
    max_new_tokens: of an answer; None: 64, or `data.max_target_length`. checkpoint: which of a run's models to take.
    keep_columns: add each row of the file, as `row`. sampling: how texts are continued and answers written.
    """
    if file is not None and not Path(file).exists():
        raise DataError(f"{file} does not exist; check the path")
    trained = load(path, flags or {}, checkpoint)
    tell_model(path, trained.folder)
    if output is not None:
        check_output(output, file)
    elsewhere = output is not None or not sys.stdout.isatty()  # on a terminal, the answers show how far it is
    with progress("predicting", None, "rows", elsewhere) as advance:
        made = predictions_for(trained, file, max_new_tokens, keep_columns, sampling, advance)
        first = next(made, [])  # what is in the output already goes when there is something in its place
        with open_output(output) as target:
            for predictions in chain([first], made):
                for prediction in predictions:
                    target.write(json.dumps(prediction, ensure_ascii=False, default=str) + "\n")
                target.flush()


def predictions_for(
    trained: Trained,
    file: str | None,
    max_new_tokens: int | None,
    keep_columns: bool = False,
    sampling: Sampling = GREEDY,
    advance: Advance = unseen,
) -> Iterator[list[dict[str, Any]]]:
    """The predictions for `file` or stdin, in the lists in which they are made. advance: is told of
    the rows that the model has seen."""
    facts, labelled = trained.settings.facts, TASKS[trained.settings.task].labelled
    if max_new_tokens is None:
        max_new_tokens = trained.settings.data.max_target_length if facts.writes else ANSWER
    if facts.holds == "messages":
        for number, (where, row) in enumerate(conversations_in(trained, file)):
            as_texts = {name: as_text(value) for name, value in row.items()}
            conversation = question_of(as_texts, trained.settings.chat, where)
            sampling.begin(number)
            prompt = prompt_of(trained.tokenizer, conversation, where)
            text = answer(trained, prompt, max_new_tokens, where, sampling=sampling)
            said: dict[str, Any] = {"messages": conversation.messages, "answer": text}
            if calls := tool_calls_in(text):
                said["tool_calls"] = calls
            advance(1)
            yield [said | ({"row": row} if keep_columns else {})]
        return
    if facts.compares:
        for number, (where, row) in enumerate(conversations_in(trained, file)):
            sampling.begin(number)
            said = answer_prompt(trained, row, where, max_new_tokens, sampling)
            advance(1)
            yield [said | ({"row": row} if keep_columns else {})]
        return
    before = 0
    for chunk in in_chunks(inputs_in(trained, file)):
        inputs = [one for one, _ in chunk]
        if labelled:
            label = tag_words if facts.holds == "words" else label_inputs
            made = label(trained, inputs, labelled.show, advance)
        else:
            texts = [one for one in inputs if isinstance(one, str)]
            if facts.writes:
                made = write_targets(trained, texts, max_new_tokens, advance)
            elif facts.causal:
                made = continue_texts(trained, texts, max_new_tokens, sampling, before, advance)
            else:
                made = fill_masks(trained, texts, advance)
        before += len(chunk)
        if keep_columns:
            made = [prediction | {"row": row} for prediction, (_, row) in zip(made, chunk, strict=True)]
        yield made


def answer_prompt(
    trained: Trained, row: Row, where: str, max_new_tokens: int, sampling: Sampling = GREEDY
) -> dict[str, Any]:
    """{"prompt", "answer"} of a row: messages are answered through the chat template, a text is continued."""
    preference = trained.settings.preference
    prompt = row.get(preference.column("prompt"))
    if isinstance(prompt, str):
        tokens = trained.tokenizer(prompt, truncation=True, max_length=trained.max_length)["input_ids"]
        new = generate(trained, tokens, max_new_tokens, sampling)
        return {"prompt": prompt, "answer": trained.tokenizer.decode(new, skip_special_tokens=True)}
    if prompt is None:  # the answers begin with it
        prompt = row.get(preference.column(preference.answers[0]))
    conversation = question_of({"messages": as_text(prompt)}, trained.settings.chat, where)
    asked = prompt_of(trained.tokenizer, conversation, where)
    text = answer(trained, asked, max_new_tokens, where, sampling=sampling)
    return {"prompt": conversation.messages, "answer": text}


def label_inputs(
    trained: Trained, inputs: Sequence[Input], show: Show, advance: Advance = unseen
) -> list[dict[str, Any]]:
    """{"text"}, of pairs {"text", "text_pair"}, of each input, and what the task shows of its logits."""
    found: list[dict[str, Any]] = [{}] * len(inputs)
    rows = encode(inputs, trained.settings, trained.tokenizer, trained.max_length)
    for indices, logits in batches(trained, rows):
        for index, row in zip(indices, logits.double().numpy(), strict=True):
            given = inputs[index]
            names = {"text": given} if isinstance(given, str) else {"text": given[0], "text_pair": given[1]}
            found[index] = names | show(row, trained.labels)
        advance(len(indices))
    return found


def tag_words(trained: Trained, inputs: Sequence[Input], show: Show, advance: Advance = unseen) -> list[dict[str, Any]]:
    """{"words"} of each input, and what the task shows of the logits of their first tokens."""
    rows = encode(inputs, trained.settings, trained.tokenizer, trained.max_length)
    assert rows.labels is not None and rows.texts is not None
    each = [np.full((len(words), len(trained.labels)), np.nan) for words in inputs]
    for indices, logits in batches(trained, rows):
        for row, of_tokens in zip(indices, logits.double().numpy(), strict=True):
            numbers = rows.labels[rows.offsets[row] : rows.offsets[row + 1]]
            first = np.flatnonzero(numbers != IGNORE_INDEX)
            each[rows.texts[row]][numbers[first]] = of_tokens[first]
        advance(len(indices))
    found: list[dict[str, Any]] = []
    for words, of_words in zip(inputs, each, strict=True):
        said = show(of_words, trained.labels)
        for entity in said.get("entities", ()):
            entity["text"] = " ".join(words[entity["first"] : entity["last"] + 1])
        found.append({"words": words} | said)
    return found


def fill_masks(trained: Trained, texts: list[str], advance: Advance = unseen) -> list[dict[str, Any]]:
    """{"text", "masks"} of each text: for each mask token the TOP likeliest tokens with their probabilities."""
    found: list[dict[str, Any]] = [{"text": text, "masks": []} for text in texts]
    mask = trained.tokenizer.mask_token_id
    encoded = encode(texts, trained.settings, trained.tokenizer, trained.max_length)
    for indices, logits in batches(trained, encoded):
        for row, index in enumerate(indices):
            ids = encoded.input_ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            for position in np.flatnonzero(ids == mask):
                top = logits[row, int(position)].float().softmax(-1).topk(TOP)
                tokens = trained.tokenizer.convert_ids_to_tokens(top.indices.tolist())
                pairs = zip(tokens, top.values.tolist(), strict=True)
                found[index]["masks"].append([{"token": t, "score": round(s, 6)} for t, s in pairs])
        advance(len(indices))
    return found


def continue_texts(
    trained: Trained,
    texts: list[str],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    before: int = 0,
    advance: Advance = unseen,
) -> list[dict[str, Any]]:
    """{"text", "continuation"} of each text. before: texts that were continued earlier."""
    found = []
    for number, text in enumerate(texts, before):
        sampling.begin(number)
        prompt = trained.tokenizer(text, truncation=True, max_length=trained.max_length)["input_ids"]
        new = generate(trained, prompt, max_new_tokens, sampling)
        found.append({"text": text, "continuation": trained.tokenizer.decode(new, skip_special_tokens=True)})
        advance(1)
    return found


def write_targets(
    trained: Trained, texts: list[str], max_new_tokens: int, advance: Advance = unseen
) -> list[dict[str, Any]]:
    """{"text", "target"} of each text: what the decoder writes, the likeliest token at each place."""
    found: list[dict[str, Any]] = [{}] * len(texts)
    rows = encode([(text, "") for text in texts], trained.settings, trained.tokenizer, trained.max_length)
    sides = rows.sides
    sides[:, 1] = max_new_tokens
    micro_batches = cut(sides, np.arange(len(rows)), trained.settings.batch.limit, samples=None)
    for number in range(len(micro_batches)):
        numbers = micro_batches[number]
        arrays = target_batch(rows, numbers, trained.tokenizer.pad_token_id)
        with trained.inference():
            inputs = {
                name: torch.from_numpy(arrays[name]).to(trained.device) for name in ("input_ids", "attention_mask")
            }
            tokens = written(trained.model, max_new_tokens, **inputs)
        for index, ids in zip(numbers.tolist(), tokens.tolist(), strict=True):
            target = trained.tokenizer.decode(ids, skip_special_tokens=True)
            found[index] = {"text": texts[index], "target": target}
        advance(len(numbers))
    return found


def batches(trained: Trained, rows: Rows) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(row numbers, logits on the CPU) of micro-batches of rows of similar length."""
    micro_batches = cut(rows.lengths, np.arange(len(rows)), trained.settings.batch.limit, samples=None)
    for number in range(len(micro_batches)):
        indices = micro_batches[number]
        arrays = padded(rows, indices, trained.tokenizer.pad_token_id)
        with trained.inference():
            inputs = {name: torch.from_numpy(array).to(trained.device) for name, array in arrays.items()}
            logits = trained.model(**inputs).logits
        yield indices.tolist(), logits.cpu()


def check_output(output: str, file: str | None) -> None:
    """Raises SettingsError where the file to write is the one that is read, or cannot be written."""
    if file is not None and Path(output).exists() and Path(output).samefile(file):
        raise SettingsError(f"--output {output} is the file that is read; give another file")
    try:
        with Path(output).open("a"):
            pass
    except OSError as error:
        raise SettingsError(f"--output {output} cannot be written: {error.strerror}; give another file") from None


@contextmanager
def open_output(output: str | None) -> Iterator[IO[str]]:
    """The file to write to, or stdout."""
    if output is None:
        yield sys.stdout
        return
    with Path(output).open("w", encoding="utf-8") as file:
        yield file
