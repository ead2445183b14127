"""The optimizer: made, and its state of one parameter read and written."""

import torch
from torch import nn

from distrain_trainer.parallel.groups import groups_of
from distrain_trainer.settings.sections import Optimizer


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW (fused where the device has it; or with 8-bit state) or SGD over the groups of `groups_of`."""
    groups = groups_of(model, settings)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    if settings.name == "adamw_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit

        return AdamW8bit(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
    trained = [parameter for group in groups for parameter in group["params"]]
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
