"""evaluate's `accuracy` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts
from distrain_trainer.metrics.metrics import Labels


class Accuracy(scripts.LabelMetric):
    """Fraction of predictions that equal their reference."""

    def _compute(self, predictions: Labels, references: Labels) -> dict[str, float]:
        return {"accuracy": metrics.accuracy(predictions, references)}
