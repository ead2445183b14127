"""KTO: answers that were judged one by one, each desirable or not. The numbers are those of TRL's trainer on the same
batch.

A gain is how much likelier an answer is than before training. Whether it is large is told by the divergence from the
reference, `kl`: the mean gain of answers to other prompts. That of a training step is estimated in each of its
micro-batches, which are planned without the number of processes, so the losses are the same on any number of them.
"""

import numpy as np
import torch

from distrain_trainer.settings.sections import Preference

BALANCED = 1.0, 4 / 3
"""Desirable answers over undesirable ones, each times its weight, between which the paper found the best."""


def divergence(gains: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """`kl` by the gains of answers to other prompts, at least 0 and without a gradient: fp32 scalar.

    gains: fp32 [rows]. valid: bool [rows], which of them count.
    """
    return ((gains.detach() * valid).sum() / valid.sum().clamp(min=1)).clamp(min=0)


def losses_of_answers(
    preference: Preference, gains: torch.Tensor, desirable: torch.Tensor, kl: torch.Tensor
) -> torch.Tensor:
    """The loss of each answer: fp32 [rows], between 0 and its weight. gains, desirable: [rows], of each."""
    wanted = desirable.bool()
    over = torch.where(wanted, gains - kl, kl - gains)
    weights = torch.where(wanted, preference.desirable_weight, preference.undesirable_weight)
    return weights * torch.sigmoid(-preference.beta * over)


def measured_of_answers(
    gains: torch.Tensor, others: torch.Tensor, logps: torch.Tensor, desirable: torch.Tensor
) -> torch.Tensor:
    """What `scores_of_answers` takes of each answer: fp32 [rows, 4]. others: the gains of answers to other prompts."""
    return torch.stack([gains, others, logps, desirable.float()], dim=1)


def scores_of_answers(preference: Preference, measured: np.ndarray) -> dict[str, float]:
    """The loss and metrics of all answers of an evaluation, with one `kl` of all of them. measured: fp64 [rows, 4].

    A kind of answer that does not occur has no metrics.
    """
    gains, others, logps, desirable = torch.from_numpy(measured).T
    kl = divergence(others, torch.ones_like(others))
    found = {"loss": float(losses_of_answers(preference, gains, desirable, kl).mean()), "kl": float(kl)}
    for name, kind in (("chosen", desirable == 1), ("rejected", desirable == 0)):
        if kind.any():
            found[f"rewards/{name}"] = preference.beta * float(gains[kind].mean())
            found[f"logps/{name}"] = float(logps[kind].mean())
    if "rewards/chosen" in found and "rewards/rejected" in found:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def balance_sentence(preference: Preference, desirable: np.ndarray) -> str:
    """How many training answers are desirable, and the weight that makes both kinds count alike, where they do not.

    desirable: int [rows], 1 or 0.
    """
    good = int(desirable.sum())
    bad = len(desirable) - good
    told = f"{good:,} of the training answers are desirable, {bad:,} are not"
    if not good or not bad:
        return f"{told}; kto learns from both kinds"
    balance = good * preference.desirable_weight / (bad * preference.undesirable_weight)
    if BALANCED[0] <= balance <= BALANCED[1]:
        return told
    rare, weight = "desirable", preference.desirable_weight / balance
    if balance > 1:
        rare, weight = "undesirable", preference.undesirable_weight * balance
    return f"{told}; for both kinds to count alike set preference.{rare}_weight: {weight:.3g}"
