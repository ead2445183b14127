"""evaluate's `bits_per_token` on top of `distrain_trainer.metrics`."""

import math

from distrain_trainer import metric_scripts, metrics


class BitsPerToken(metric_scripts.LossMetric):
    """Mean loss a token, in bits."""

    def _compute(self, losses):
        return {"bits_per_token": metrics.bits_per_token(math.fsum(losses), len(losses))}
