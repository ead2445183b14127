"""Labels of a classification: what they are called and which number each has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distrain_trainer.data.readers import SHOWN, a_few
from distrain_trainer.data.table import Part
from distrain_trainer.errors import DataError

NO_LABEL = -1
"""The number that stands for no label in a column of ClassLabel, and where no row has another."""


def missing_labels(part: Part, column: str, unlabelled: int | str | None) -> np.ndarray:
    """Which rows have no label: null, NaN, empty, or `unlabelled`; -1 where no row has another one: bool [rows]."""
    values = part.values(column)
    known = getattr(part.source.rows.features[column], "names", None) is not None
    missing = np.asarray([value is None or value == "" or value != value for value in values], bool)
    if unlabelled is not None:
        missing |= np.asarray([str(value) == str(unlabelled) for value in values], bool)
    none = np.asarray([type(value) in (int, float) and value == NO_LABEL for value in values], bool)
    return missing | none if known or (missing | none).all() else missing


def read_labels(part: Part, column: str, unlabelled: int | str | None = None) -> tuple[list[str], tuple[str, ...]]:
    """The name of each row's label, and the names in the order of their ids.

    The order is a ClassLabel's own (classes without a row included), by number for integers, else alphabetical.
    unlabelled: a label that stands for none. Raises DataError for rows without a label and for values that are no
    classes.
    """
    missing = np.flatnonzero(missing_labels(part, column, unlabelled))
    values: list[Any] = part.values(column)
    if len(missing):
        found = dict.fromkeys(str(values[row]) or "empty" for row in missing[:SHOWN].tolist())
        shown = " or ".join(found).replace("None", "null")
        raise DataError(
            f"{len(missing)} of {len(part)} {part.name} rows have no label in column '{column}' (it is {shown}), the "
            f"first is {part.place(missing[0])}; remove them or name another data.label_column"
        )
    known: list[str] | None = getattr(part.source.rows.features[column], "names", None)
    if known is not None:
        return [known[value] for value in values], tuple(known)
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        number = next(
            (i for i, value in enumerate(values) if isinstance(value, float) and not value.is_integer()), None
        )
        if number is not None:
            raise DataError(
                f"{part.place(number)} has label {values[number]} in column '{column}', but classes are strings, "
                "integers or booleans (regression is not supported); name another data.label_column"
            )
        values = [int(value) for value in values]
    elif kinds not in ({str}, {bool}):
        other = next((i for i, value in enumerate(values) if type(value) is not type(values[0])), 0)
        beside = f" and {part.place(0)} has {_described(values[0])}" if other else ""
        raise DataError(
            f"{part.place(other)} has {_described(values[other])} in column '{column}'{beside}, but labels are all "
            "strings, all integers or all booleans; name another data.label_column or convert it"
        )
    return [str(value) for value in values], tuple(str(value) for value in sorted(set(values)))


def _described(value: Any) -> str:
    return f"{value!r}" if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def label_ids(labels: Sequence[str], names: tuple[str, ...]) -> np.ndarray:
    """The id of each label, its place in `names`: int32 [rows]."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.asarray([numbers[label] for label in labels], np.int32)


def check_labels(train: Sequence[str], evaluation: Sequence[str], column: str) -> None:
    """Raises DataError where there is nothing to tell apart, or evaluation has labels that training never shows."""
    if len(seen := set(train)) < 2:
        raise DataError(
            f"every training row has label {min(seen)!r} in column '{column}'; a classification needs two classes"
        )
    if unseen := sorted(set(evaluation) - seen):
        raise DataError(
            f"labels in the evaluation rows but not in the training rows: {a_few(unseen)}; add training rows with "
            "them, or remove their rows from evaluation"
        )
