"""evaluate's `seqeval` on top of `distrain_trainer.metrics.entities`."""

from itertools import chain
from typing import Any

from distrain_trainer.metrics import entities, metrics, scripts

Tags = list[list[str]]


class Seqeval(scripts.TagMetric):
    """Precision, recall and f1 of entities, over all and of each type, and the accuracy of tags."""

    def _compute(self, predictions: Tags, references: Tags) -> dict[str, Any]:
        types, *counts = entities.entity_counts(predictions, references)
        scores = metrics.count_scores(*counts)
        found: dict[str, Any] = {
            kind: {name: float(values[n]) for name, values in scores.items()} | {"number": int(counts[2][n])}
            for n, kind in enumerate(types)
        }
        overall = entities.entity_metrics(*counts)
        right = [one == other for one, other in zip(chain(*predictions), chain(*references), strict=True)]
        found |= {f"overall_{name}": overall[name] for name in ("precision", "recall", "f1")}
        return found | {"overall_accuracy": metrics.accuracy(right, [True] * len(right))}
