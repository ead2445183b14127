"""What a task is: all of it that differs from the others, as plain functions in one record.

Each kind has a file, which ends with its record; `table` has all of them. What the settings need to know of a task
stands in `settings/tasks.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from distrain_trainer.tasks.labels import LabelColumn, Labels

Names = tuple[str, ...]
Encoded = np.ndarray | list[np.ndarray]


class Loss(Protocol):
    """A loss in nats or squared units, summed over the targets: fp32 scalar."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
    ) -> torch.Tensor:
        """logits: [..., outputs] of the head. labels: as the loader makes them; what is no target counts nothing.

        weights: fp32 [outputs], of each class. smoothing: the part of a target that is spread over all classes.
        """


@dataclass(frozen=True)
class Scores:
    """How good predictions are. metrics: by name, without a prefix. details: what the report draws, as JSON."""

    metrics: dict[str, float]
    details: dict[str, Any]


@dataclass(frozen=True)
class MetricNames:
    """What an evaluation gives. names: all of it. best: what chooses the best checkpoint by default. headline: what a
    sentence shows."""

    names: tuple[str, ...]
    best: str
    headline: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """What a task whose labels come from a column does with them.

    single: a row has exactly one label: held-out rows are stratified by it, and training must show those of evaluation.
    read: checks a column; raises DataError. check: that training rows can be learned from; takes the column's name too,
    and raises DataError.
    encode: the labels of rows as numbers, by names in the order of their ids: an array with a row for each, or a list
    of arrays where words have them.
    score: of predictions and labels, one of each a row, in numbers as the loader and the head give them.
    show: what `predict` says of a row, from its logits.
    balanced: from the encoded labels and the number of classes, weights under which all classes count the same.
    weigh: the sum of the weights of a batch's targets, from its labels and the weight of each class. (These two: None
    where labels are not classes.)
    describe: a sentence about the encoded labels of the training rows, for the start.
    plain: predictions or labels as metrics of the `evaluate` library take them. config: what that calls such labels.
    probabilities: of classes, from logits: fp32 of the same shape; None where there are none.
    """

    single: bool
    read: Callable[[LabelColumn], Labels]
    check: Callable[[Labels, str], None]
    encode: Callable[[Sequence[Any], Names], Encoded]
    score: Callable[[Sequence[Any], Sequence[Any], Names], Scores]
    show: Callable[[np.ndarray, Names], dict[str, Any]]
    balanced: Callable[[np.ndarray, int], np.ndarray] | None = None
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    describe: Callable[[np.ndarray], str] | None = None
    plain: Callable[[Sequence[Any], Names], Sequence[Any]] = lambda values, names: values
    config: Callable[[Names], str | None] = lambda names: None
    probabilities: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Task:
    """One kind of task.

    metrics: what an evaluation gives, by the names of the labels.
    head: what the model's configuration says of the new head, by the names of the labels.
    loss: of logits and labels. unit: what it is measured in. decide: the predictions that follow from logits, of the
    labels' shape.
    labelled: None for language models, whose tokens are their labels.
    score_texts: metrics of written texts, from them and their references; None where the model writes none.
    """

    metrics: Callable[[Names], MetricNames]
    head: Callable[[Names], dict[str, Any]]
    loss: Loss
    decide: Callable[[torch.Tensor], torch.Tensor]
    labelled: Labelled | None = None
    unit: str = "cross entropy, nats"
    score_texts: Callable[[Sequence[str], Sequence[str]], dict[str, float]] | None = None


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit: int64 [...] of [..., classes]."""
    return logits.argmax(-1)


def named_head(names: Names, problem: str | None = None) -> dict[str, Any]:
    """The configuration of a head with an output for each name. problem: transformers' `problem_type`."""
    about: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return about | ({"problem_type": problem} if problem else {})


def label_scores(names: Sequence[str], scores: dict[str, np.ndarray], counts: np.ndarray) -> list[dict[str, Any]]:
    """A row for each label, as the report shows it. scores: by name, of each label. counts: how often it is true."""
    return [
        {"label": name, **{score: float(values[n]) for score, values in scores.items()}, "count": int(counts[n])}
        for n, name in enumerate(names)
    ]
