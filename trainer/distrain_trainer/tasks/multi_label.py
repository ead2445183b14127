"""Multi-label classification: a row has any number of labels, each of which is decided on its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distrain_trainer.errors import DataError
from distrain_trainer.metrics.metrics import CLASSIFICATION_METRICS, accuracy, averages, count_scores
from distrain_trainer.tasks.labels import LabelColumn, Labels, described, is_target, numbers_of, refuse_mixed
from distrain_trainer.tasks.losses import binary_cross_entropy
from distrain_trainer.tasks.task import Labelled, MetricNames, Names, Scores, Task, label_scores, named_head


def read(column: LabelColumn) -> Labels:
    """The names of each row's labels, in the order of their ids; a row may have none.

    A value is a list of labels, or of 0 and 1 for each label: where lists are of booleans or of fractions, or where
    lists of equal length have a number twice. The order of the names is as in sequence classification.
    """
    if column.flags:
        return _read_flags(column.values, column.names or (), column)
    column.refuse_missing()
    values = column.values
    other = next((row for row, value in enumerate(values) if not isinstance(value, list)), None)
    if other is not None:
        raise DataError(
            f"{column.place(other)} has {described(values[other])} in column '{column.name}', but labels of "
            "multi-label-classification are lists; give lists, or name columns of 0 and 1 by data.label_columns"
        )
    if column.names is None and _are_flags(values):
        return _read_flags(values, tuple(str(number) for number in range(len(values[0]))), column)
    refuse_mixed(column)
    if column.names is not None:
        given = column.names
        return Labels([tuple(given[label] for label in sorted(set(value))) for value in values], given)
    names = tuple(str(label) for label in sorted({label for value in values for label in value}))
    return Labels([tuple(str(label) for label in sorted(set(value))) for value in values], names)


def _are_flags(values: Sequence[list[Any]]) -> bool:
    """Whether lists say of each label whether a row has it."""
    flags = {len(value) for value in values} == {len(values[0])} and all(label in (0, 1) for v in values for label in v)
    return flags and any(len(set(v)) < len(v) or {type(label) for label in v} & {bool, float} for v in values)


def _read_flags(values: Sequence[list[Any]], names: Names, column: LabelColumn) -> Labels:
    for row, value in enumerate(values):
        wrong = next((n for n, flag in enumerate(value) if flag not in (0, 1)), None)
        if wrong is not None:
            raise DataError(
                f"{column.place(row)} has {described(value[wrong])} for label '{names[wrong]}', but it is 0 or 1; "
                "correct the column, or leave it out of data.label_columns"
            )
    return Labels([tuple(name for name, flag in zip(names, value, strict=True) if flag) for value in values], names)


def check(train: Labels, column: str) -> None:
    """Raises DataError where there is nothing to tell apart."""
    if len(seen := set(train.values)) < 2:
        labels = " and ".join(map(repr, min(seen))) or "none"
        raise DataError(
            f"every training row has the same labels in column '{column}' ({labels}); there is nothing to learn"
        )


def encode(values: Sequence[Sequence[str]], names: Names) -> np.ndarray:
    """1 where a row has a label: int8 [rows, labels]."""
    numbers = numbers_of(names)
    found = np.zeros((len(values), len(names)), np.int8)
    for row, value in zip(found, values, strict=True):
        row[[numbers[name] for name in value]] = 1
    return found


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """Rows without a label for each row with it; 1 for a label without rows: float64 [labels]."""
    having = labels.sum(0, dtype=np.int64)
    return np.where(having, (len(labels) - having) / np.maximum(having, 1), 1.0)


def weigh(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of the weights of a batch's targets: that of the label where a row has it, 1 where it has not."""
    return torch.where(labels == 1, weights, 1.0)[is_target(labels)].sum()


def decide(logits: torch.Tensor) -> torch.Tensor:
    """1 where a label is likelier than not: int64 [..., labels]."""
    return (logits > 0).long()


def score(predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], names: Names) -> Scores:
    """Accuracy is the fraction of rows all of whose labels are right; the rest is averaged over labels."""
    predicted, true = np.asarray(predictions, bool), np.asarray(labels, bool)
    counts = (predicted & true).sum(0), predicted.sum(0), true.sum(0)
    exact = accuracy((predicted == true).all(1), np.ones(len(true), bool))
    return Scores(
        {"accuracy": exact} | averages(*counts),
        {"label_scores": label_scores(names, count_scores(*counts), counts[2])},
    )


def show(logits: np.ndarray, names: Names) -> dict[str, Any]:
    """{"labels", "scores"}: the labels that are likelier than not, likeliest first, and each label's probability."""
    values = 1 / (1 + np.exp(-logits))
    found = [names[n] for n in np.argsort(-values, kind="stable") if logits[n] > 0]
    return {"labels": found, "scores": {name: round(float(v), 6) for name, v in zip(names, values, strict=True)}}


MULTI_LABEL = Task(
    metrics=lambda names: MetricNames(CLASSIFICATION_METRICS, "f1_micro", ("f1_micro", "f1_macro")),
    head=lambda names: named_head(names, "multi_label_classification"),
    loss=binary_cross_entropy,
    decide=decide,
    labelled=Labelled(
        single=False,
        read=read,
        check=check,
        encode=encode,
        balanced=balanced,
        weigh=weigh,
        config=lambda names: "multilabel",
        probabilities=lambda logits: logits.float().sigmoid(),
        score=score,
        show=show,
    ),
)
