"""The optimizer, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from distrain_trainer.settings.sections import Optimizer, Schedule


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW (fused where the device has it; or with 8-bit state) or SGD; matrices decay, biases and norms do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    if settings.name == "adamw_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit

        return AdamW8bit(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=fused)


def state_tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """What the optimizer remembers of a parameter, by its own names; a count becomes an int64 scalar."""
    state = optimizer.state.get(parameter, {})
    return {key: torch.as_tensor(value) for key, value in state.items() if value is not None}


def load_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `state_tensors`; nothing remembered leaves the optimizer as it is.

    The tensors are copied: those of a safetensors file are the file itself in memory.
    """
    if tensors:
        optimizer.state[parameter] = {
            key: int(value) if value.dtype == torch.int64 else value.to(parameter.device, copy=True)
            for key, value in tensors.items()
        }


def learning_rate(settings: Schedule, highest: float, step: int, steps: int) -> float:
    """The learning rate of the step after `step` steps are done, of a run of `steps`."""
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    left = (steps - step) / max(steps - warmup, 1)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
    return highest * shape[settings.kind]
