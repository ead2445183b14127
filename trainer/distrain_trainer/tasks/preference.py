"""Preferences: of two answers to a prompt one is better, and the model learns to find it the likelier one.

DPO and IPO compare the model with its reference, which is the model before training; ORPO does without. The numbers are
those of TRL's trainers on the same batch. KTO, whose answers are judged one by one, is in `kto`.
"""

import torch
from torch.nn.functional import logsigmoid

from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.task import MetricNames, Task, likeliest

COMPARED = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""What is measured of each pair, under TRL's names."""
PREFERENCE = Task(
    metrics=lambda names: MetricNames(
        ("loss", *COMPARED, "kl"), "loss", ("loss", "rewards/accuracies", "rewards/margins")
    ),
    head=lambda names: {},
    loss=cross_entropy,
    decide=likeliest,
    unit="loss of a pair",
)


def losses_of_pairs(
    preference: Preference, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:
    """The loss of each pair: fp32 [pairs]. Of ORPO the part of the odds ratio.

    logps: fp32 [2, pairs], the log-probability of each chosen answer and of each rejected one. tokens: int64 of the
    same shape, of each answer, at least 1. reference: as logps, before training.
    """
    beta = preference.beta
    if preference.method == "orpo":
        mean = logps / tokens
        odds = mean - log1mexp(mean)
        return -beta * logsigmoid(odds[0] - odds[1])
    gained = logps - reference
    if preference.method == "ipo":
        mean = gained / tokens
        return (mean[0] - mean[1] - 1 / (2 * beta)).square()
    return -logsigmoid(beta * (gained[0] - gained[1]))


def log1mexp(values: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) of negative x, precise near 0 and far from it."""
    near = values > -0.693
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, values, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, values))),
    )


def measured(
    preference: Preference, logps: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor
) -> torch.Tensor:
    """What `COMPARED` names of each pair: fp32 [pairs, 6]. Arguments as of `losses_of_pairs`."""
    orpo = preference.method == "orpo"
    said = logps / tokens if orpo else logps
    rewards = preference.beta * (said if orpo else logps - reference)
    better = (rewards[0] > rewards[1]).float()
    return torch.stack([rewards[0], rewards[1], better, rewards[0] - rewards[1], said[0], said[1]], dim=1)
