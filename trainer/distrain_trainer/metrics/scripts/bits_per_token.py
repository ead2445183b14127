"""evaluate's `bits_per_token` on top of `distrain_trainer.metrics.metrics`."""

import math

from distrain_trainer.metrics import metrics, scripts


class BitsPerToken(scripts.LossMetric):
    """Mean loss a token, in bits."""

    def _compute(self, losses: list[float]) -> dict[str, float]:
        return {"bits_per_token": metrics.bits_per_token(math.fsum(losses), len(losses))}
