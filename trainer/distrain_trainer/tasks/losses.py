"""The losses of the tasks, each summed over its targets. What they are divided by, their targets, is counted apart."""

import torch
from torch import nn

from distrain_trainer.tasks.labels import IGNORE_INDEX


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross entropy in nats. logits: [..., classes]; labels: int64 [...], -100 for none.

    Weights and smoothing are those of torch.nn.functional.cross_entropy.
    """
    return nn.functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        weight=weights,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=smoothing,
    )
