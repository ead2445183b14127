"""What the model is given of each row of the data: a text, a pair of texts, words, or tokens that were made before."""

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain_trainer.data.conversations import from_text
from distrain_trainer.data.pairs import tokenize_pairs
from distrain_trainer.data.sources import is_tokenized, text_columns
from distrain_trainer.data.table import Part
from distrain_trainer.data.targets import tokenize_targets
from distrain_trainer.data.text import BATCH, Shape, Text, tokenize
from distrain_trainer.data.words import tokenize_words
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Input = str | tuple[str, str] | list[str]
"""What the model is given of a row: a text, a pair of texts, or words."""


def texts_of(
    part: Part,
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    tags: Sequence[np.ndarray] | None = None,
) -> Iterator[list[Text]]:
    """The texts of each batch of rows, from a column of texts or words (or two) or as they were tokenized before.

    tags: of the words of each row; DataError where there are more or fewer.
    """
    if is_tokenized(part, settings):
        yield from _tokenized_before(part, settings, tokenizer)
        return
    first = 0
    for inputs in inputs_of(part, settings):
        of_batch = None if tags is None else tags[first : first + len(inputs)]
        for number, (words, marks) in enumerate(zip(inputs, of_batch or (), strict=False)):
            if len(words) != len(marks):
                raise DataError(
                    f"{part.place(first + number)} has {len(words)} words but {len(marks)} tags; give one for each word"
                )
        first += len(inputs)
        yield list(tokenize_inputs(inputs, settings, tokenizer, shape, of_batch))


def inputs_of(part: Part, settings: Settings) -> Iterator[list[Input]]:
    """What the model is given of each batch of rows: texts, pairs of them, or words; DataError where one is something
    else."""
    named, words = text_columns(part, settings), settings.facts.holds == "words"
    columns = list(named.values())
    first = 0
    for batch in part.rows.select_columns(columns).iter(BATCH):
        read = [[from_text(v) for v in batch[c]] if part.source.is_text else batch[c] for c in columns]
        for (setting, column), values in zip(named.items(), read, strict=True):
            fits = is_words if words else is_text
            other = next((n for n, value in enumerate(values) if not fits(value)), None)
            if other is not None:
                raise DataError(
                    f"{part.place(first + other)}: column '{column}' holds {type(values[other]).__name__}, not "
                    f"{'a list of words' if words else 'text'}; name another {setting}"
                )
        first += len(read[0])
        none: Any = [] if words else ""
        filled = [[none if value is None else value for value in values] for values in read]
        yield filled[0] if len(filled) == 1 else list(zip(*filled, strict=True))


def is_text(value: Any) -> bool:
    """Whether a value is text, or none."""
    return isinstance(value, str | None)


def is_words(value: Any) -> bool:
    """Whether a value is a list of words, or none."""
    return value is None or (isinstance(value, list) and all(isinstance(word, str) for word in value))


def tokenize_inputs(
    inputs: Sequence[Any],
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    tags: Sequence[np.ndarray] | None = None,
) -> Iterator[Text]:
    """The tokens of each input: of a text, of a pair of them, of a source and its target, or of words and their
    tags."""
    if settings.facts.holds == "words":
        return tokenize_words(inputs, settings, tokenizer, tags)
    if settings.facts.writes:
        return tokenize_targets(inputs, settings, tokenizer, shape)
    if settings.data.text_pair_column is not None:
        return tokenize_pairs(inputs, settings, tokenizer, shape)
    return tokenize(inputs, settings, tokenizer)


def _tokenized_before(part: Part, settings: Settings, tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[Text]]:
    """Texts from a column input_ids, as it is; padding that an attention_mask shows is left out.

    For causal-lm a column of labels, one a token, gives the targets.
    """
    if settings.data.mask_whole_words:
        raise SettingsError("data.mask_whole_words needs texts, but the data has a column input_ids; set it to false")
    wanted = settings.data.label_column or "labels"
    there = part.rows.column_names
    per_token = not settings.facts.labelled and wanted in there
    if per_token and settings.facts.target == "masked-token":
        raise DataError(
            f"column '{wanted}' gives targets for tokens, but masked-lm draws its own; remove it or train causal-lm"
        )
    columns = ["input_ids", *({"attention_mask"} & set(there)), *([wanted] if per_token else [])]
    for column in columns:
        part.column(column, (), "data.text_column")
    vocabulary, special = len(tokenizer), set(tokenizer.all_special_ids)
    first = 0
    for batch in part.rows.select_columns(columns).iter(BATCH):
        texts: list[Text] = []
        for values in zip(*(batch[column] for column in columns), strict=True):
            row = dict(zip(columns, map(from_text, values), strict=True))
            try:
                row = _checked(row, vocabulary)
            except DataError as error:
                raise DataError(f"{part.place(first + len(texts))}{error}") from error
            seen = [bool(value) for value in row.pop("attention_mask", [1] * len(row["input_ids"]))]
            row = {column: list(compress(values, seen)) for column, values in row.items()}
            words = [-1 if token in special else n for n, token in enumerate(row["input_ids"])]
            texts.append(Text(row["input_ids"], words, row.get(wanted), framed=False))
        first += len(texts)
        yield texts


def _checked(row: dict[str, Any], vocabulary: int) -> dict[str, list[int]]:
    """The row's lists, null as an empty one; DataError where they are no integers, not of one length, no tokens.

    The error is what stands behind the row's place.
    """
    lists: dict[str, list[int]] = {}
    for column, values in row.items():
        values = [] if values is None else values
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise DataError(f": {column} is not a list of integers; correct the column")
        lists[column] = values
        if len(values) != len(lists["input_ids"]):
            raise DataError(
                f" has {len(lists['input_ids'])} input_ids but {len(values)} {column}; give one for each token"
            )
        if column == "attention_mask":
            continue
        allowed = {IGNORE_INDEX} if column != "input_ids" else set()
        strange = next((v for v in values if not 0 <= v < vocabulary and v not in allowed), None)
        if strange is not None:
            raise DataError(
                f" has {strange} in {column}, but the tokenizer has tokens 0 to {vocabulary - 1}; tokenize "
                "the data with this model's tokenizer"
            )
    return lists
