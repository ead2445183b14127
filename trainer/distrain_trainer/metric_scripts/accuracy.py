"""evaluate's `accuracy` on top of `distrain_trainer.metrics`."""

from distrain_trainer import metric_scripts, metrics


class Accuracy(metric_scripts.LabelMetric):
    """Fraction of predictions that equal their reference."""

    def _compute(self, predictions, references):
        return {"accuracy": metrics.accuracy(predictions, references)}
