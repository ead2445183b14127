"""The metrics that `evaluation.metrics` asks for: loaded and tried at the start, computed at each evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrain_trainer.data.rows import Rows
from distrain_trainer.metrics.library import Given, LibraryMetric, compute_metrics, load_metrics, try_metrics
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import is_target
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Labelled, Names

TRIED = 200
"""Rows on which metrics are tried."""


@dataclass(frozen=True)
class Further:
    """Further metrics of a run, and the names of what they give."""

    metrics: tuple[LibraryMetric, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def take_scores(self) -> bool:
        """Whether one of them takes probabilities."""
        return any("prediction_scores" in metric.takes for metric in self.metrics)

    def compute(
        self,
        labelled: Labelled,
        predicted: Sequence[Any],
        true: Sequence[Any],
        scores: Sequence[Any],
        names: Names,
        say: Callable[[str], None],
    ) -> dict[str, float]:
        """What they give of an evaluation's rows. names: of the labels."""
        given = Given(labelled.plain(predicted, names), labelled.plain(true, names), scores)
        return compute_metrics(self.metrics, given, say)


def further_of(settings: Settings, rows: Rows | None, names: Names) -> Further:
    """The metrics that the settings ask for, tried on labels of the evaluation rows as if they were predicted.

    names: of the labels. Raises SettingsError for those that cannot be loaded or computed.
    """
    asked, labelled = settings.evaluation.metrics, TASKS[settings.task].labelled
    if not asked or labelled is None or rows is None:
        return Further()
    metrics = load_metrics(asked, labelled.config(names), TASKS[settings.task].metrics(names).names)
    labels = [labels_of(rows, number) for number in np.unique(np.linspace(0, len(rows) - 1, TRIED).astype(int))]
    plain = labelled.plain(labels, names)
    scores = certain(labels, len(names)) if labelled.probabilities else ()
    return Further(tuple(metrics), tuple(try_metrics(metrics, Given(plain, plain, scores))))


def labels_of(rows: Rows, number: int) -> Any:
    """The label of a row as an evaluation has it: a number, or a list of those of its labels or words."""
    assert rows.labels is not None
    if rows.texts is None:
        return rows.labels[number].tolist()
    of_tokens = rows.labels[rows.offsets[number] : rows.offsets[number + 1]]
    return of_tokens[is_target(of_tokens)].tolist()


def certain(labels: Sequence[Any], classes: int) -> list[Any]:
    """Probabilities of predictions that are sure and right: as `Labelled.probabilities` gives them."""
    if isinstance(labels[0], list):
        return [[float(value) for value in label] for label in labels]
    if classes == 2:
        return [float(label) for label in labels]
    of_classes: list[Any] = np.eye(classes)[labels].tolist()
    return of_classes
