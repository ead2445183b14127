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
class Labelled:
    """What a task whose labels come from a column does with them.

    read: checks a column; raises DataError. check: that training rows (and evaluation rows, if there are some) can be
    learned from; takes the column's name too, and raises DataError.
    encode: the labels of rows as numbers, by names in the order of their ids: an array with a row for each.
    balanced: from the encoded labels and the number of classes, weights under which all classes count the same.
    weigh: the sum of the weights of a batch's targets, from its labels and the weight of each class.
    strata: what to stratify held-out rows by, one name a row; None to draw them from all.
    score: of predictions and labels, one of each a row, in numbers as the loader and the head give them.
    show: what `predict` says of a row, from its logits.
    """

    read: Callable[[LabelColumn], Labels]
    check: Callable[[Labels, Labels | None, str], None]
    encode: Callable[[Sequence[Any], Names], np.ndarray]
    balanced: Callable[[np.ndarray, int], np.ndarray]
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    strata: Callable[[Labels], list[str] | None]
    score: Callable[[Sequence[Any], Sequence[Any], Names], Scores]
    show: Callable[[np.ndarray, Names], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One kind of task.

    metrics: names of what an evaluation gives, by the names of the labels. metric: the one that chooses the best
    checkpoint by default. headline: those that a sentence shows.
    head: what the model's configuration says of the new head, by the names of the labels.
    loss: of logits and labels. decide: the predictions that follow from logits, of the labels' shape.
    labelled: None for language models, whose tokens are their labels.
    """

    metrics: Callable[[Names], tuple[str, ...]]
    metric: str
    headline: tuple[str, ...]
    head: Callable[[Names], dict[str, Any]]
    loss: Loss
    decide: Callable[[torch.Tensor], torch.Tensor]
    labelled: Labelled | None = None


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit: int64 [...] of [..., classes]."""
    return logits.argmax(-1)


def named_head(names: Names, problem: str | None = None) -> dict[str, Any]:
    """The configuration of a head with an output for each name. problem: transformers' `problem_type`."""
    about: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return about | ({"problem_type": problem} if problem else {})
