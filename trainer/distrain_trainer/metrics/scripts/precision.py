"""evaluate's `precision` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts
from distrain_trainer.metrics.metrics import Average, Labels


class Precision(scripts.LabelMetric):
    """Of the rows predicted as a class, the fraction that are of that class. average: macro, micro or weighted."""

    def _compute(self, predictions: Labels, references: Labels, average: Average = "macro") -> dict[str, float]:
        return {"precision": metrics.precision(predictions, references, average)}
