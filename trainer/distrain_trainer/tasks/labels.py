"""Labels before they are numbers: a column of them, what is missing in it, and how they are told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrain_trainer.console import SHOWN
from distrain_trainer.errors import DataError

IGNORE_INDEX = -100
"""Label of a position that is no target. Among labels that are numbers NaN stands for it."""
NO_LABEL = -1
"""The number that stands for no label in a column of ClassLabel, and where no row has another."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels, as the data has it.

    rows: what its rows are for, such as `training`. values: one a row. names: those that the column itself gives its
    numbers (ClassLabel), else None. place: where a row is, for people. unlabelled: `data.unlabelled`.
    flags: the column is several, one for each name, and a value the list of theirs.
    """

    name: str
    rows: str
    values: list[Any]
    names: tuple[str, ...] | None
    place: Callable[[int], str]
    unlabelled: int | str | None = None
    flags: bool = False

    def missing(self) -> np.ndarray:
        """Which rows have no label: null, NaN, empty or blanks alone, or `unlabelled`; -1 where no row has another one:
        bool [rows]."""
        values = self.values
        missing = np.asarray([value is None or value != value or is_blank(value) for value in values], bool)
        if self.unlabelled is not None:
            missing |= np.asarray([str(value) == str(self.unlabelled) for value in values], bool)
        none = np.asarray([type(value) in (int, float) and value == NO_LABEL for value in values], bool)
        return missing | none if self.names is not None or (missing | none).all() else missing

    def refuse_missing(self) -> None:
        """Raises DataError where rows have no label."""
        missing = np.flatnonzero(self.missing())
        if len(missing):
            found = dict.fromkeys(str(self.values[row]).strip() or "empty" for row in missing[:SHOWN].tolist())
            shown = " or ".join(found).replace("None", "null")
            raise DataError(
                f"{len(missing)} of {len(self.values)} {self.rows} rows have no label in column '{self.name}' (it is "
                f"{shown}), the first is {self.place(int(missing[0]))}; remove them or name another data.label_column"
            )


def is_blank(value: Any) -> bool:
    """Whether it is a text without a letter, digit or sign."""
    return isinstance(value, str) and not value.strip()


def refuse_look_alikes(column: LabelColumn) -> None:
    """Raises DataError where two labels, which are strings, differ only in blanks around them."""
    shown: dict[str, str] = {}
    for row, label in enumerate(column.values):
        if (first := shown.setdefault(label.strip(), label)) != label:
            raise DataError(
                f"{column.place(row)} has label {label!r} in column '{column.name}' where other rows have {first!r}, "
                "which would be two classes; make them one"
            )


def refuse_mixed(column: LabelColumn) -> None:
    """Raises DataError where lists of labels hold other things than strings alone, or integers alone."""
    kinds = {type(label) for value in column.values for label in value}
    if kinds - {str} and kinds - {int}:
        first = next(type(label) for value in column.values for label in value)
        wanted = first if first in (str, int) else str
        other = next(row for row, value in enumerate(column.values) if any(type(one) is not wanted for one in value))
        raise DataError(
            f"{column.place(other)} has {column.values[other]!r} in column '{column.name}', but labels are all strings "
            "or all integers; correct the row, or name another data.label_column"
        )


@dataclass(frozen=True)
class Labels:
    """The labels of some rows, checked.

    values: one a row, as the task reads it: a name, or what else it is made of. names: all that there are, in the order
    of their ids; none where labels are numbers.
    """

    values: list[Any]
    names: tuple[str, ...] = ()

    def of(self, row: int) -> tuple[str, ...]:
        """The names that a row has: one, several or none."""
        value = self.values[row]
        if not self.names:
            return ()
        return (value,) if isinstance(value, str) else value

    def used(self) -> set[str]:
        """The names that rows have."""
        if not self.names or isinstance(self.values[0], str):
            return set(self.values) if self.names else set()
        return {name for value in self.values for name in value}


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    """The id of each name, its place."""
    return {name: number for number, name in enumerate(names)}


def described(value: Any) -> str:
    """A value in a sentence: `'a'`, `3`, `a list`."""
    return f"{value!r}" if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def is_target(labels: Any) -> Any:
    """Where labels, an array or a tensor of numbers, are targets: bool of the same shape."""
    floating = labels.dtype.kind == "f" if isinstance(labels, np.ndarray) else labels.is_floating_point()
    return labels == labels if floating else labels != IGNORE_INDEX
