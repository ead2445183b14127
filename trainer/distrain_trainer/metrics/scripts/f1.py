"""evaluate's `f1` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts
from distrain_trainer.metrics.metrics import Average, Labels


class F1(scripts.LabelMetric):
    """Harmonic mean of precision and recall, a class at a time. average: macro, micro or weighted."""

    def _compute(self, predictions: Labels, references: Labels, average: Average = "macro") -> dict[str, float]:
        return {"f1": metrics.f1(predictions, references, average)}
