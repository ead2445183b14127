"""How good the model is: plain functions of counts, labels and loss sums.

Classification metrics follow from the confusion matrix and give scikit-learn's numbers; language metrics follow from
sums over tokens, so that processes can add up their parts before anything is divided.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

Average = Literal["macro", "micro", "weighted"]
Labels = Sequence[int] | np.ndarray

AVERAGES: tuple[Average, ...] = ("macro", "micro", "weighted")
LANGUAGE_METRICS = ("loss", "perplexity", "bits_per_token", "token_accuracy")
CLASSIFICATION_METRICS = (
    "loss",
    "accuracy",
    *(f"{score}_{average}" for score in ("precision", "recall", "f1") for average in AVERAGES),
)

REGRESSION_METRICS = ("loss", "mse", "mae", "r2", "pearson", "spearman")
ORDINAL_METRICS = (*REGRESSION_METRICS, "accuracy", "quadratic_kappa")
DOWNWARDS = ("loss", "perplexity", "bits_per_token", "mse", "mae", "kl")
"""Metrics of which less is better."""


def confusion_matrix(predictions: Labels, references: Labels, classes: int | None = None) -> np.ndarray:
    """Counts, int64 [classes, classes]: row = true class, column = predicted class.

    predictions, references: class numbers, int [rows]. classes: None stands for the largest class number + 1.
    """
    predicted, true = np.asarray(predictions, np.int64), np.asarray(references, np.int64)
    if classes is None:
        classes = int(max(predicted.max(initial=-1), true.max(initial=-1))) + 1
    assert predicted.shape == true.shape, "as many predictions as references"
    both = np.concatenate([predicted, true])
    assert ((both >= 0) & (both < classes)).all(), "class numbers are 0 .. classes - 1"
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and f1 of each class, float64 [classes], from counts [classes, classes]; 0 / 0 is 0."""
    return count_scores(np.diag(matrix), matrix.sum(0), matrix.sum(1))


def count_scores(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and f1 of each label, float64 [labels]; 0 / 0 is 0.

    hits: how often it was predicted and true, predicted, true: how often at all, int [labels].
    """
    return {
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, true),
        "f1": _divide(2 * hits, predicted + true),
    }


def averages(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`precision_macro` and so on, where things may have several labels or none.

    As `count_scores`. macro: mean over all labels. weighted: by how often they are true. micro: all counted together.
    """
    scores, rows = count_scores(hits, predicted, true), max(int(true.sum()), 1)
    together = count_scores(*(np.sum(counts, keepdims=True) for counts in (hits, predicted, true)))
    found: dict[str, float] = {}
    for score, values in scores.items():
        found |= {
            f"{score}_macro": float(values.mean()) if len(values) else 0.0,
            f"{score}_micro": float(together[score][0]),
            f"{score}_weighted": float(values @ true / rows),
        }
    return found


def average_score(matrix: np.ndarray, score: str, average: Average) -> float:
    """`precision`, `recall` or `f1` over all classes.

    macro: mean over the classes that occur in predictions or references. weighted: mean over rows. micro: all rows
    counted together, which with one label a row equals accuracy for all three. Without rows: 0.
    """
    rows = matrix.sum()
    if rows == 0:
        return 0.0
    if average == "micro":
        return float(np.trace(matrix) / rows)
    scores = class_scores(matrix)[score]
    if average == "weighted":
        return float(scores @ matrix.sum(1) / rows)
    return float(scores[(matrix.sum(0) + matrix.sum(1)) > 0].mean())


def accuracy(predictions: Labels, references: Labels) -> float:
    """Fraction of predictions that equal their reference; NaN without rows."""
    if len(references) == 0:
        return math.nan
    return float(np.mean(np.asarray(predictions) == np.asarray(references)))


def precision(predictions: Labels, references: Labels, average: Average = "macro") -> float:
    """Of the rows predicted as a class, the fraction that are of that class."""
    return average_score(confusion_matrix(predictions, references), "precision", average)


def recall(predictions: Labels, references: Labels, average: Average = "macro") -> float:
    """Of the rows of a class, the fraction predicted as that class."""
    return average_score(confusion_matrix(predictions, references), "recall", average)


def f1(predictions: Labels, references: Labels, average: Average = "macro") -> float:
    """Harmonic mean of precision and recall, a class at a time."""
    return average_score(confusion_matrix(predictions, references), "f1", average)


def perplexity(loss_sum: float, tokens: int) -> float:
    """exp of the mean loss a token; infinite where that is beyond a float, NaN without tokens.

    loss_sum: negative log-likelihood in nats, summed over `tokens` tokens.
    """
    try:
        return math.exp(_mean(loss_sum, tokens))
    except OverflowError:
        return math.inf


def bits_per_token(loss_sum: float, tokens: int) -> float:
    """Mean loss a token in bits, from its sum in nats; NaN without tokens."""
    return _mean(loss_sum, tokens) / math.log(2)


def classification_metrics(predictions: Labels, references: Labels, classes: int) -> dict[str, float]:
    """All of `CLASSIFICATION_METRICS` but the loss, from class numbers, int [rows]."""
    matrix = confusion_matrix(predictions, references, classes)
    values = {"accuracy": accuracy(predictions, references)}
    for score in ("precision", "recall", "f1"):
        values |= {f"{score}_{average}": average_score(matrix, score, average) for average in AVERAGES}
    return values


def regression_metrics(predictions: Sequence[float] | np.ndarray, references: Any) -> dict[str, float]:
    """All of `REGRESSION_METRICS` but the loss, of numbers; those that are not defined are NaN."""
    predicted, true = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    errors = predicted - true
    return {
        "mse": float(np.mean(errors**2)),
        "mae": float(np.mean(np.abs(errors))),
        "r2": r2(predicted, true),
        "pearson": pearson(predicted, true),
        "spearman": pearson(ranks(predicted), ranks(true)),
    }


def r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """Part of the variance of the references that is explained: as scikit-learn's `r2_score`; NaN below two rows."""
    if len(true) < 2:
        return math.nan
    left, whole = float(((true - predicted) ** 2).sum()), float(((true - true.mean()) ** 2).sum())
    return 1 - left / whole if whole else float(left == 0)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two arrays of numbers; NaN where one of them is constant, as scipy's."""
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one)) * math.sqrt(float(other @ other))
    return max(-1.0, min(1.0, float(one @ other) / scale)) if scale else math.nan


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in their order, from 1; the mean of their places where values are equal: float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    places: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return places


def quadratic_kappa(matrix: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights, from counts [levels, levels], a row per true level, in order.

    Agreement beyond chance, where a prediction two levels off costs four times as much as one. NaN where all rows are
    of one level and predicted so.
    """
    levels = np.arange(len(matrix))
    costs = (levels[:, None] - levels) ** 2
    chance = np.outer(matrix.sum(1), matrix.sum(0)) / max(int(matrix.sum()), 1)
    expected = float((costs * chance).sum())
    return 1 - float((costs * matrix).sum()) / expected if expected else math.nan


def language_metrics(loss_sum: float, tokens: int, correct: int) -> dict[str, float]:
    """`LANGUAGE_METRICS` from the loss in nats and the right predictions, both summed over `tokens` targets."""
    return {
        "loss": _mean(loss_sum, tokens),
        "perplexity": perplexity(loss_sum, tokens),
        "bits_per_token": bits_per_token(loss_sum, tokens),
        "token_accuracy": _mean(correct, tokens),
    }


def greater_is_better(name: str) -> bool:
    """Whether a higher value of this metric is a better one."""
    return name not in DOWNWARDS


def metric_path(name: str) -> Path:
    """The script of a metric for `evaluate.load(str(metric_path("f1")))`, which needs no network."""
    return Path(__file__).parent / "scripts" / f"{name}.py"


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    quotients: np.ndarray = numerator / np.maximum(denominator, 1)
    return quotients


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan
