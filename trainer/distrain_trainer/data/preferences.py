"""From pairs of answers to rows: a prompt with the answer that was chosen, and with the one that was rejected.

A row holds both texts, one behind the other. Only the answers are targets; the prompt before them is context. Prompts
and answers are texts, or lists of messages that the tokenizer's chat template writes:

    prompt "2 + 2 = ?"          chosen "4"                          rejected "5"
    prompt [user: 2 + 2 = ?]    chosen [assistant: 4]               rejected [assistant: 5]
                                chosen [user: ..., assistant: 4]    rejected [user: ..., assistant: 5]
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain_trainer.data.chat import ROW, Encoded, Template, placed, shown
from distrain_trainer.data.conversations import Message, messages_of, plain_value
from distrain_trainer.data.readers import Refuse, refuse_all
from distrain_trainer.data.table import Part
from distrain_trainer.data.text import BATCH, Made, Shape
from distrain_trainer.errors import DataError, first_line
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distrain_trainer.data.rows import Rows


@dataclass(frozen=True)
class Answer:
    """A prompt with an answer. start, stop: the answer's characters. plain: no template has written it, so that special
    tokens are still to be put around."""

    text: str
    start: int
    stop: int
    plain: bool

    def tokens(self, encoded: Encoded, shape: Shape) -> tuple[list[int], list[int]]:
        """Its tokens and targets, all of them. encoded: the text."""
        ids, targets = encoded.ids, encoded.targets([(self.start, self.stop)])
        if not self.plain:
            return ids, targets
        end = shape.end if ids[-len(shape.end) :] != shape.end else []
        return [*shape.prefix, *ids, *end], [*[IGNORE_INDEX] * len(shape.prefix), *targets, *end]


def rows_of_preferences(
    part: Part,
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    refuse: Refuse = refuse_all,
) -> Iterator[Made]:
    """The token rows of pairs of answers, batch by batch. refuse: takes the error of one that is none, and raises it or
    not.

    A text longer than `shape.longest` tokens loses its end, or its pair is dropped with long_texts=drop; so is a pair
    whose prompt leaves no room for an answer.
    """
    names, template = columns_of(part, settings.preference), Template(tokenizer)
    first = 0
    for batch in part.rows.select_columns(names).iter(BATCH):
        answers: list[Answer] = []
        rows = list(zip(*(batch[name] for name in names), strict=True))
        for index, values in enumerate(rows, first):
            with placed(part, index, refuse):
                answers += answers_of(dict(zip(names, values, strict=True)), template)
        encoded = template.encode([answer.text for answer in answers])
        tokens = [answer.tokens(one, shape) for answer, one in zip(answers, encoded, strict=True)]
        made = Made()
        for chosen, rejected in zip(tokens[::2], tokens[1::2], strict=True):
            add(made, (chosen, rejected), shape)
        first += len(rows)
        yield made


def columns_of(part: Part, preference: Preference) -> list[str]:
    """The columns of both answers, or of an answer and its label, behind that of the prompt where there is one;
    DataError where they are not there."""

    def found(name: str) -> str:
        return part.column(getattr(preference, f"{name}_column"), (name,), f"preference.{name}_column")

    names = [found(name) for name in preference.answers]
    if preference.prompt_column is not None or "prompt" in part.source.columns:
        names.insert(0, found("prompt"))
    return names


def answers_of(row: Mapping[str, Any], template: Template, count: int = 2) -> list[Answer]:
    """The answers of a row, its last columns, behind their prompt: the chosen one and the rejected one. Raises
    DataError."""
    values, names = [plain_value(value) for value in row.values()], list(row)[-count:]
    prompt, answers = values[0] if len(values) > count else None, values[-count:]
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in answers):
        for name, answer in zip(names, answers, strict=True):
            if not answer:
                raise DataError(f"{ROW} has an empty text in column '{name}'; correct or remove it")
        texts = [prompt + answer for answer in answers]
        return [Answer(text, len(prompt), len(text), plain=True) for text in texts]
    found = [divided(prompt, answer, name) for answer, name in zip(answers, names, strict=True)]
    if found[0][0] != found[-1][0]:
        raise DataError(
            f"{ROW}: '{names[0]}' and '{names[1]}' answer different conversations; let them differ in the last answer "
            "alone, or remove the row"
        )
    return [written(asked, said, template) for asked, said in found]


def divided(prompt: Any, answer: Any, name: str) -> tuple[list[Message], list[Message]]:
    """The messages up to the one that is answered, and the answer. prompt: None where the answer begins with it.

    name: of the answer's column. Raises DataError.
    """
    if isinstance(answer, str) and prompt is None:
        raise DataError(
            f"{ROW} has a text in column '{name}' and no prompt; add a column prompt, or name it by "
            "preference.prompt_column"
        )
    messages = _messages(answer, "assistant", name)
    if prompt is not None and messages[0]["role"] == "assistant":
        messages = _messages(prompt, "user", "prompt") + messages
    last = max((n for n, message in enumerate(messages) if message["role"] != "assistant"), default=-1)
    if last < 0 or last == len(messages) - 1:
        missing = "no prompt" if last < 0 else "no answer of the assistant at its end"
        raise DataError(f"{ROW} has {missing} in column '{name}'; correct or remove it")
    return messages[: last + 1], messages[last + 1 :]


def _messages(value: Any, role: str, name: str) -> list[Message]:
    """A text as a message of a role, messages as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else messages_of(value, ROW, name)


def written(asked: list[Message], said: list[Message], template: Template) -> Answer:
    """The conversation as the chat template writes it. Raises DataError."""
    if not template.tokenizer.chat_template:
        raise DataError(
            f"{ROW} has messages, but the tokenizer has no chat template; set chat.template to a file that holds one, "
            "or give texts"
        )
    try:
        prompt, _ = template.render(asked, None, prompt=True)
        text, _ = template.render([*asked, *said], None)
    except Exception as error:  # a template is a program of others and may raise anything
        raise DataError(
            f"{ROW}: the chat template refuses it ({first_line(error)}); correct the row, or set chat.template to "
            f"another one; it is {shown(json.dumps([*asked, *said], ensure_ascii=False))}"
        ) from error
    if not text.startswith(prompt):
        raise DataError(
            f"{ROW}: the chat template does not begin an answer with its prompt; set chat.template to one that does; "
            f"the prompt is {shown(prompt)}"
        )
    return Answer(text, len(prompt), template.turn_stop(text, len(prompt)), plain=False)


def add(made: Made, two: tuple[tuple[list[int], list[int]], ...], shape: Shape) -> bool:
    """Appends the row of two texts, each (tokens, targets), cut to its first `shape.longest` tokens; False where it is
    dropped."""
    made.counts["texts"] += 1
    cut = [(ids[: shape.longest], targets[: shape.longest]) for ids, targets in two]
    long = any(len(ids) > shape.longest for ids, _ in two)
    nothing = any(all(target == IGNORE_INDEX for target in targets) for _, targets in cut)
    if (long and shape.long_texts == "drop") or nothing:
        made.counts["dropped_long"] += 1
        return False
    made.counts["truncated"] += long
    for ids, targets in cut:
        made.input_ids += ids
        made.targets += targets
    made.firsts.append(len(cut[0][0]))
    made.lengths.append(sum(len(ids) for ids, _ in cut))
    made.counts["rows"] += 1
    made.counts["tokens"] += made.lengths[-1]
    return True


def preference_batch(rows: "Rows", numbers: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """The first texts of some rows, and behind them their second ones, as the rows of one batch.

    input_ids, attention_mask, labels: int64 [2 x rows, longest]; labels are shifted, -100 outside of the answers.
    reference: fp32 [2 x rows], desirable: int64 [rows], where the rows have some.
    """
    assert rows.labels is not None
    sides = rows.sides[numbers]
    shape = 2 * len(numbers), max(int(sides.max()), 1)
    input_ids = np.full(shape, pad_id, np.int64)
    attention_mask = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE_INDEX, np.int64)
    for i, (number, lengths) in enumerate(zip(numbers, sides, strict=True)):
        start = rows.offsets[number]
        for place, length in zip((i, i + len(numbers)), lengths, strict=True):
            input_ids[place, :length] = rows.input_ids[start : start + length]
            attention_mask[place, :length] = 1
            labels[place, : length - 1] = rows.labels[start + 1 : start + length]
            start += length
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if rows.reference is not None:
        arrays["reference"] = rows.reference[numbers].T.ravel()
    if rows.desirable is not None:
        arrays["desirable"] = rows.desirable[numbers].astype(np.int64)
    return arrays
