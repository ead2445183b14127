"""Sequence classification: a row has one label of several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distrain_trainer.errors import DataError
from distrain_trainer.metrics.metrics import CLASSIFICATION_METRICS, classification_metrics, confusion_matrix
from distrain_trainer.tasks.labels import LabelColumn, Labels, described, is_target, numbers_of, refuse_look_alikes
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.task import Labelled, MetricNames, Names, Scores, Task, likeliest, named_head


def read(column: LabelColumn) -> Labels:
    """The name of each row's label.

    The order of the names is a ClassLabel's own (classes without a row included), by number for integers, else
    alphabetical.
    """
    column.refuse_missing()
    values = column.values
    if column.names is not None:
        return Labels([column.names[value] for value in values], column.names)
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        number = next(
            (i for i, value in enumerate(values) if isinstance(value, float) and not value.is_integer()), None
        )
        if number is not None:
            raise DataError(
                f"{column.place(number)} has label {values[number]} in column '{column.name}', but classes are "
                "strings, integers or booleans; name another data.label_column, or set task to regression"
            )
        values = [int(value) for value in values]
    elif kinds not in ({str}, {bool}):
        other = next((i for i, value in enumerate(values) if type(value) is not type(values[0])), 0)
        beside = f" and {column.place(0)} has {described(values[0])}" if other else ""
        raise DataError(
            f"{column.place(other)} has {described(values[other])} in column '{column.name}'{beside}, but labels are "
            "all strings, all integers or all booleans; name another data.label_column or convert it"
        )
    elif kinds == {str}:
        refuse_look_alikes(column)
    return Labels([str(value) for value in values], tuple(str(value) for value in sorted(set(values))))


def check(train: Labels, column: str) -> None:
    """Raises DataError where there is nothing to tell apart."""
    if len(seen := train.used()) < 2:
        raise DataError(
            f"every training row has label {min(seen)!r} in column '{column}'; a classification needs two classes"
        )


def encode(values: Sequence[str], names: Names) -> np.ndarray:
    """Class ids: int32 [rows]."""
    numbers = numbers_of(names)
    return np.asarray([numbers[value] for value in values], np.int32)


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """rows / (classes x rows of the class), as scikit-learn's; 1 for a class without rows: float64 [classes]."""
    counts = np.bincount(labels[is_target(labels)], minlength=classes)
    return np.where(counts, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)


def weigh(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of the weights of a batch's targets."""
    return weights[labels[is_target(labels)]].sum()


def score(predictions: Sequence[int], labels: Sequence[int], names: Names) -> Scores:
    """Metrics of class ids, and their confusion matrix, a row per true class."""
    predicted, true = np.asarray(predictions, np.int64), np.asarray(labels, np.int64)
    matrix = confusion_matrix(predicted, true, len(names))
    return Scores(
        classification_metrics(predicted, true, len(names)),
        {"confusion_matrix": {"labels": list(names), "counts": matrix.tolist()}},
    )


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The probability of each class; of two classes that of the second, which is what binary metrics take."""
    found = logits.float().softmax(-1)
    return found[..., 1] if found.shape[-1] == 2 else found


def show(logits: np.ndarray, names: Names) -> dict[str, Any]:
    """{"label", "score", "scores"}; scores maps each label to its probability."""
    raised = np.exp(logits - logits.max())
    scores = {name: round(float(value), 6) for name, value in zip(names, raised / raised.sum(), strict=True)}
    best = names[int(logits.argmax())]
    return {"label": best, "score": scores[best], "scores": scores}


SEQUENCE = Task(
    metrics=lambda names: MetricNames(CLASSIFICATION_METRICS, "accuracy", ("accuracy", "f1_macro")),
    head=lambda names: named_head(names, "single_label_classification"),
    loss=cross_entropy,
    decide=likeliest,
    labelled=Labelled(
        single=True,
        read=read,
        check=check,
        encode=encode,
        balanced=balanced,
        weigh=weigh,
        config=lambda names: "multiclass" if len(names) > 2 else None,
        probabilities=probabilities,
        score=score,
        show=show,
    ),
)
