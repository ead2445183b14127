"""evaluate's `recall` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts
from distrain_trainer.metrics.metrics import Average, Labels


class Recall(scripts.LabelMetric):
    """Of the rows of a class, the fraction predicted as that class. average: macro, micro or weighted."""

    def _compute(self, predictions: Labels, references: Labels, average: Average = "macro") -> dict[str, float]:
        return {"recall": metrics.recall(predictions, references, average)}
