"""Metrics that a person asks for beside a task's own: of the `evaluate` library by name, or from a script like its own.

A script is a Python file with a class of evaluate.Metric, whose features say what it takes: predictions and references,
and where it wants them prediction_scores. Every number that it returns becomes a metric.
"""

import numbers
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain_trainer.errors import SettingsError, first_line

TAKEN = {"predictions", "references", "prediction_scores"}
"""What an evaluation can give."""


@dataclass(frozen=True)
class Given:
    """What metrics are computed of, one of each for each row, as the task counts them.

    scores: the probability of each class, of one class in two; empty where none takes them.
    """

    predictions: Sequence[Any]
    references: Sequence[Any]
    scores: Sequence[Any] = ()


@dataclass(frozen=True)
class LibraryMetric:
    """One of the metrics.

    name: begins the name of a result that a metric of the task has already. own: the names of those. module: evaluate's
    EvaluationModule.
    """

    name: str
    module: Any
    own: Collection[str]

    @property
    def takes(self) -> set[str]:
        """What it is computed of."""
        features = self.module.features
        first = features[0] if isinstance(features, list) else features
        return set(first)

    def compute(self, given: Given) -> dict[str, float]:
        """The numbers that it gives. Raises whatever the metric does."""
        values = {"predictions": given.predictions, "references": given.references, "prediction_scores": given.scores}
        found = self.module.compute(**{name: values[name] for name in self.takes}) or {}
        plain = {key: float(value) for key, value in found.items() if is_number(value)}
        return {f"{self.name}_{key}" if key in self.own else key: value for key, value in plain.items()}


def is_number(value: Any) -> bool:
    """Whether a result is one number."""
    return isinstance(value, numbers.Real) or (hasattr(value, "ndim") and value.ndim == 0)


def load_metrics(asked: Sequence[str], config: str | None, own: Collection[str]) -> list[LibraryMetric]:
    """The metrics of `evaluation.metrics`.

    config: what labels are like, where evaluate has a name for it. own: the names of the task's own metrics.

    Raises SettingsError for what is not there, cannot be loaded, or takes what an evaluation cannot give.
    """
    import evaluate

    found = []
    for name in asked:
        try:
            module = evaluate.load(name, config, keep_in_memory=True)
        except FileNotFoundError:
            raise SettingsError(
                f"evaluation.metrics: {name} is neither a script here nor a metric of the evaluate library on the Hub, "
                "or the Hub cannot be reached and the cache does not hold it; check the name, or give a script"
            ) from None
        except Exception as error:  # a script is a program of others and may raise anything
            raise SettingsError(
                f"evaluation.metrics: {name} cannot be loaded: {first_line(error)}; correct it"
            ) from error
        metric = LibraryMetric(Path(name).stem, module, own)
        if unknown := sorted(metric.takes - TAKEN):
            raise SettingsError(
                f"evaluation.metrics: {name} takes {', '.join(unknown)}, but an evaluation gives "
                f"{', '.join(sorted(TAKEN))}; choose another"
            )
        found.append(metric)
    return found


def try_metrics(metrics: Sequence[LibraryMetric], given: Given) -> list[str]:
    """The names of what the metrics give of some rows; SettingsError where one cannot be computed of such rows."""
    names: list[str] = []
    for metric in metrics:
        try:
            found = metric.compute(given)
        except Exception as error:
            raise SettingsError(
                f"evaluation.metrics: {metric.name} cannot be computed for this task ({first_line(error)}); a script "
                "of yours may set what it needs"
            ) from error
        if not found:
            raise SettingsError(f"evaluation.metrics: {metric.name} gives no number; return a dictionary of numbers")
        names += found
    return names


def compute_metrics(metrics: Sequence[LibraryMetric], given: Given, say: Callable[[str], None]) -> dict[str, float]:
    """The numbers that the metrics give. One that fails is said and left out: it does not end a run."""
    values: dict[str, float] = {}
    for metric in metrics:
        try:
            values |= metric.compute(given)
        except Exception as error:
            say(f"{metric.name} could not be computed ({first_line(error)}) and is missing from this evaluation")
    return values
