"""evaluate's `perplexity` on top of `distrain_trainer.metrics`."""

import math

from distrain_trainer import metric_scripts, metrics


class Perplexity(metric_scripts.LossMetric):
    """exp of the mean loss a token."""

    def _compute(self, losses):
        return {"perplexity": metrics.perplexity(math.fsum(losses), len(losses))}
