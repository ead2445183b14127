"""Regression: a row has a number. Ordinal regression: it is one of a few levels, such as one to five stars.

Both learn the number itself, with a head of one output and the mean squared error, and transformers takes either for
regression. An ordinal prediction is the level nearest to the output.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distrain_trainer.errors import DataError
from distrain_trainer.metrics.metrics import (
    ORDINAL_METRICS,
    REGRESSION_METRICS,
    accuracy,
    confusion_matrix,
    quadratic_kappa,
    regression_metrics,
)
from distrain_trainer.tasks.labels import LabelColumn, Labels, described
from distrain_trainer.tasks.losses import squared_error
from distrain_trainer.tasks.task import Labelled, MetricNames, Names, Scores, Task

POINTS = 1000
"""Most rows of an evaluation that the report shows as points."""
LARGE = 100.0
"""Numbers beyond which a person is told that they are slow to learn."""
LEVELS = 100
"""Most levels of an ordinal regression."""


def read(column: LabelColumn) -> Labels:
    """The number of each row."""
    column.refuse_missing()
    other = next((n for n, v in enumerate(column.values) if type(v) not in (int, float) or not math.isfinite(v)), None)
    if other is not None:
        raise DataError(
            f"{column.place(other)} has {described(column.values[other])} in column '{column.name}', but labels of a "
            "regression are numbers; name another data.label_column, or set task to sequence-classification"
        )
    return Labels([float(value) for value in column.values])


def read_levels(column: LabelColumn) -> Labels:
    """The level of each row, as text; the levels in the order of their numbers."""
    numbers = read(column).values
    levels = sorted(set(numbers))
    if len(levels) > LEVELS:
        raise DataError(
            f"column '{column.name}' has {len(levels):,} different numbers, but ordinal-regression is for at most "
            f"{LEVELS} levels; set task to regression"
        )
    return Labels([name_of(number) for number in numbers], tuple(name_of(level) for level in levels))


def name_of(level: float) -> str:
    """A level as text that stands for the same number: `4`, `4.5`."""
    return str(int(level)) if level.is_integer() else str(level)


def check(train: Labels, column: str) -> None:
    """Raises DataError where there is nothing to tell apart."""
    if len(set(train.values)) < 2:
        raise DataError(f"every training row has {train.values[0]} in column '{column}'; there is nothing to learn")


def encode(values: Sequence[float | str], names: Names) -> np.ndarray:
    """The numbers: float32 [rows]."""
    return np.asarray([float(value) for value in values], np.float32)


def described_numbers(labels: np.ndarray) -> str:
    """`labels: from 0 to 5, mean 2.61, standard deviation 1.49`, and what to do where they are slow to learn."""
    low, high, mean, spread = (float(value) for value in (labels.min(), labels.max(), labels.mean(), labels.std()))
    told = f"labels: from {low:g} to {high:g}, mean {mean:.4g}, standard deviation {spread:.4g}"
    far = max(spread, abs(mean)) > LARGE
    return told + ("; numbers of about 1 are learned in fewer steps, so divide these" if far else "")


def decide(logits: torch.Tensor) -> torch.Tensor:
    """The output: fp32 [rows] of [rows, 1]."""
    return logits.squeeze(-1).float()


def score(predictions: Sequence[float], labels: Sequence[float], names: Names) -> Scores:
    """Metrics of numbers, and some of them as points."""
    predicted, true = np.asarray(predictions), np.asarray(labels)
    shown = np.unique(np.linspace(0, len(true) - 1, POINTS).astype(int))
    points = {"true": true[shown].tolist(), "predicted": predicted[shown].tolist(), "rows": len(true)}
    return Scores(regression_metrics(predicted, true), {"scatter": points})


def score_levels(predictions: Sequence[float], labels: Sequence[float], names: Names) -> Scores:
    """The same, and how often the nearest level is the right one, or how far from it."""
    scores = score(predictions, labels, names)
    predicted, true = nearest(np.asarray(predictions), names), nearest(np.asarray(labels), names)
    matrix = confusion_matrix(predicted, true, len(names))
    more = {"accuracy": accuracy(predicted, true), "quadratic_kappa": quadratic_kappa(matrix)}
    about = {"confusion_matrix": {"labels": list(names), "counts": matrix.tolist()}}
    return Scores(scores.metrics | more, scores.details | about)


def nearest(values: np.ndarray, names: Names) -> np.ndarray:
    """The number of the level nearest to each value, the lower one of two: int64 [rows]."""
    levels = np.asarray([float(name) for name in names])
    found: np.ndarray = np.abs(values[:, None] - levels).argmin(1)
    return found


def show(logits: np.ndarray, names: Names) -> dict[str, Any]:
    """{"value"}: the number."""
    return {"value": round(float(logits[0]), 6)}


def show_level(logits: np.ndarray, names: Names) -> dict[str, Any]:
    """{"label", "value"}: the level, and the number that it is nearest to."""
    return {"label": names[int(nearest(logits[:1], names)[0])]} | show(logits, names)


def head(names: Names) -> dict[str, Any]:
    """One output, whose problem transformers calls a regression."""
    return {"num_labels": 1, "problem_type": "regression"}


REGRESSION = Task(
    metrics=lambda names: MetricNames(REGRESSION_METRICS, "mse", ("mse", "pearson", "spearman")),
    head=head,
    loss=squared_error,
    decide=decide,
    unit="mean squared error",
    labelled=Labelled(
        single=False, read=read, check=check, encode=encode, score=score, show=show, describe=described_numbers
    ),
)
ORDINAL = Task(
    metrics=lambda names: MetricNames(ORDINAL_METRICS, "quadratic_kappa", ("quadratic_kappa", "accuracy", "mae")),
    head=head,
    loss=squared_error,
    decide=decide,
    unit="mean squared error",
    labelled=Labelled(
        single=True,
        read=read_levels,
        check=check,
        encode=encode,
        score=score_levels,
        show=show_level,
        describe=described_numbers,
        plain=lambda values, names: nearest(np.asarray(values), names).tolist(),
    ),
)
