"""The losses of the tasks, each summed over its targets. What they are divided by, their targets, is counted apart."""

import torch
from torch import nn

from distrain_trainer.tasks.labels import IGNORE_INDEX, is_target


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


def squared_error(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """The squared difference. logits: [rows, 1]; labels: fp32 [rows], NaN for none. Numbers are not weighted."""
    outputs = logits.squeeze(-1).float()
    wanted = torch.where(is_target(labels), labels, outputs.detach())  # a NaN would reach the gradient
    return (outputs - wanted).square().sum()


def binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """Cross entropy in nats of each label of a row on its own. logits: [rows, labels]; labels: int64 of the same shape.

    weights: of a label where a row has it, torch's `pos_weight`. smoothing: moves a label's 0 and 1 towards one half.
    """
    wanted = labels * (1 - smoothing) + smoothing / 2
    each = nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted, pos_weight=weights, reduction="none")
    return torch.where(is_target(labels), each, 0.0).sum()
