"""evaluate's `confusion_matrix` on top of `distrain_trainer.metrics.metrics`."""

from distrain_trainer.metrics import metrics, scripts
from distrain_trainer.metrics.metrics import Labels


class ConfusionMatrix(scripts.LabelMetric):
    """Counts, [classes, classes]: row = true class, column = predicted class."""

    def _compute(self, predictions: Labels, references: Labels) -> dict[str, list[list[int]]]:
        return {"confusion_matrix": metrics.confusion_matrix(predictions, references).tolist()}
