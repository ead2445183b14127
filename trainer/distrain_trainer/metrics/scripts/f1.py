"""evaluate's `f1` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts


class F1(scripts.LabelMetric):
    """Harmonic mean of precision and recall, a class at a time. average: macro, micro or weighted."""

    def _compute(self, predictions, references, average="macro"):
        return {"f1": metrics.f1(predictions, references, average)}
