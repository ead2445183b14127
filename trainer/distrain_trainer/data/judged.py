"""From judged answers to rows: a prompt with an answer that is desirable or not, for KTO.

A row holds two texts, one behind the other: the prompt with its own answer, and the same prompt with the answer to
another one. The loss is about the first; the second shows how far the model has moved from its reference at all.

    prompt "2 + 2 = ?"    completion "4"      label true      row: "2 + 2 = ?4"    "2 + 2 = ?Paris"
    prompt "Capital?"     completion "Paris"  label true      row: "Capital?Paris" "Capital?4"
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distrain_trainer.data.chat import ROW, Template, placed
from distrain_trainer.data.conversations import plain_value
from distrain_trainer.data.preferences import Answer, add, answers_of, columns_of
from distrain_trainer.data.readers import Refuse, refuse_all
from distrain_trainer.data.table import BOOLEANS, Part
from distrain_trainer.data.text import BATCH, Made, Shape
from distrain_trainer.errors import DataError
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS: dict[Any, bool] = {True: True, False: False, "1": True, "0": False, **BOOLEANS}
"""What a label may be, 1 and 0 among them."""


@dataclass(frozen=True)
class Tokens:
    """A prompt's tokens, and those of its answer with their targets."""

    prompt: tuple[int, ...]
    answer: list[int]
    targets: list[int]

    @staticmethod
    def of(ids: list[int], targets: list[int]) -> "Tokens":
        """Those of a whole text, whose prompt ends where its targets begin."""
        first = next((place for place, target in enumerate(targets) if target != IGNORE_INDEX), len(ids))
        return Tokens(tuple(ids[:first]), ids[first:], targets[first:])

    def answered_by(self, other: "Tokens") -> tuple[list[int], list[int]]:
        """This prompt with another answer: its tokens, and targets."""
        return [*self.prompt, *other.answer], [*[IGNORE_INDEX] * len(self.prompt), *other.targets]


def rows_of_judged(
    part: Part,
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    refuse: Refuse = refuse_all,
) -> Iterator[Made]:
    """The token rows of judged answers, batch by batch; arguments and long texts as of `rows_of_preferences`.

    The other answer is that of the nearest row before with another prompt, going around in a batch. It is cut where it
    is too long, whatever `long_texts` says.
    """
    names, template = columns_of(part, settings.preference), Template(tokenizer)
    first = 0
    before: list[Tokens] = []
    for batch in part.rows.select_columns(names).iter(BATCH):
        answers: list[Answer] = []
        desirable: list[bool] = []
        rows = list(zip(*(batch[name] for name in names), strict=True))
        for index, values in enumerate(rows, first):
            with placed(part, index, refuse):
                answer, label = judged(dict(zip(names, values, strict=True)), template)
                answers.append(answer)
                desirable.append(label)
        encoded = template.encode([answer.text for answer in answers])
        tokens = [Tokens.of(*answer.tokens(one, shape)) for answer, one in zip(answers, encoded, strict=True)]
        made, around = Made(), before + tokens
        others = partners([one.prompt for one in around])[len(before) :]
        for own, other, label in zip(tokens, others, desirable, strict=True):
            ids, targets = own.answered_by(around[other])
            if add(made, (own.answered_by(own), (ids[: shape.longest], targets[: shape.longest])), shape):
                made.desirable.append(label)
        first, before = first + len(rows), around[-1:]
        yield made


def judged(row: Mapping[str, Any], template: Template) -> tuple[Answer, bool]:
    """The answer of a row behind its prompt, and whether it is desirable. Raises DataError."""
    name = list(row)[-1]
    value = plain_value(row[name])
    if not isinstance(value, bool | int | float | str) or value not in LABELS:
        raise DataError(f"{ROW} has {value!r} in column '{name}'; a label is true or false: correct or remove it")
    (answer,) = answers_of({column: row[column] for column in row if column != name}, template, count=1)
    return answer, LABELS[value]


def partners(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """For each prompt the place of the nearest before it, going around, that is another one; where all are the same
    that of the one before."""
    found = [(place - 1) % len(prompts) for place in range(len(prompts))]
    if all(prompt == prompts[0] for prompt in prompts):
        return found
    for place in (*range(len(prompts)), *range(len(prompts))):  # twice, since it goes around
        if prompts[place - 1] == prompts[place]:
            found[place] = found[place - 1]
    return found
