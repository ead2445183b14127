"""evaluate's `accuracy` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts


class Accuracy(scripts.LabelMetric):
    """Fraction of predictions that equal their reference."""

    def _compute(self, predictions, references):
        return {"accuracy": metrics.accuracy(predictions, references)}
