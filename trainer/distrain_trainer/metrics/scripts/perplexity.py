"""evaluate's `perplexity` on top of `distrain_trainer.metrics.metrics`."""

import math

from distrain_trainer.metrics import metrics, scripts


class Perplexity(scripts.LossMetric):
    """exp of the mean loss a token."""

    def _compute(self, losses: list[float]) -> dict[str, float]:
        return {"perplexity": metrics.perplexity(math.fsum(losses), len(losses))}
