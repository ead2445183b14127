"""Labels of a classification: what they are called and which number each has."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain_trainer.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def read_labels(rows: "Dataset", column: str, part: str) -> tuple[list[str], tuple[str, ...]]:
    """The name of each row's label, and the names in the order of their ids.

    The order is a ClassLabel's own (classes without a row included), by number for integers, else alphabetical.
    part: what the rows are called in an error, such as `training`. Raises DataError for rows without a label (null,
    NaN, empty or -1) and for values that are no classes.
    """
    values: list[Any] = rows.select_columns(column)[:][column]
    missing = [number for number, value in enumerate(values, 1) if value is None or value in ("", -1) or value != value]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(values)} {part} rows have no label in column '{column}' (null, empty or -1), the "
            f"first is row {missing[0]}; remove them or name another data.label_column"
        )
    known: list[str] | None = getattr(rows.features[column], "names", None)
    if known is not None:
        return [known[value] for value in values], tuple(known)
    kinds = {type(value) for value in values}
    if kinds == {float}:
        number = next((i for i, value in enumerate(values, 1) if not value.is_integer()), None)
        if number is not None:
            raise DataError(
                f"{part} row {number} has label {values[number - 1]} in column '{column}', but classes are strings, "
                "integers or booleans (regression is not supported); name another data.label_column"
            )
        values = [int(value) for value in values]
    elif kinds not in ({str}, {int}, {bool}):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(
            f"column '{column}' of the {part} rows holds {found}, but labels are all strings, all integers or all "
            "booleans; name another data.label_column or convert it"
        )
    return [str(value) for value in values], tuple(str(value) for value in sorted(set(values)))


def label_ids(labels: Sequence[str], names: tuple[str, ...]) -> np.ndarray:
    """The id of each label, its place in `names`: int32 [rows]."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.asarray([numbers[label] for label in labels], np.int32)


def check_labels(train: Sequence[str], evaluation: Sequence[str], column: str) -> None:
    """Raises DataError where there is nothing to tell apart, or evaluation has labels that training never shows."""
    if len(seen := set(train)) < 2:
        raise DataError(
            f"every training row has label '{min(seen)}' in column '{column}'; a classification needs two classes"
        )
    if unseen := sorted(set(evaluation) - seen):
        raise DataError(
            f"labels in the evaluation rows but not in the training rows: {', '.join(map(repr, unseen))}; add "
            "training rows with them, or remove their rows from evaluation"
        )
