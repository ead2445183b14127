"""evaluate's `confusion_matrix` on top of `distrain_trainer.metrics`."""

from distrain_trainer import metric_scripts, metrics


class ConfusionMatrix(metric_scripts.LabelMetric):
    """Counts, [classes, classes]: row = true class, column = predicted class."""

    def _compute(self, predictions, references):
        return {"confusion_matrix": metrics.confusion_matrix(predictions, references).tolist()}
