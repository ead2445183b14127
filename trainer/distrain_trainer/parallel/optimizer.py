"""The optimizer: made, and its state of one parameter read and written."""

from typing import Any

import torch
from torch import nn

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.optimizer_state import is_hidden_matrix
from distrain_trainer.parallel.groups import groups_of
from distrain_trainer.parallel.muon import Groups, MuonWithAdamW
from distrain_trainer.settings.sections import EIGHT_BITS, Optimizer


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over the groups of `groups_of`; AdamW fused where the device has it.

    Raises SettingsError for Muon where it would have no matrix.
    """
    groups = groups_of(model, settings)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum or 0.0)
    if settings.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.learning_rate)
    if settings.name == "muon":
        return _muon(model, groups, settings)
    if settings.name in EIGHT_BITS:
        from bitsandbytes.optim import adamw

        kind = adamw.AdamW8bit if settings.name == "adamw_8bit" else adamw.PagedAdamW8bit
        return kind(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
    trained = [parameter for group in groups for parameter in group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=fused)


def _muon(model: nn.Module, groups: Groups, settings: Optimizer) -> MuonWithAdamW:
    """Muon for the matrices of blocks, AdamW for all else."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    hidden: Groups = []
    others: Groups = []
    for group in groups:
        for part, wanted in ((hidden, True), (others, False)):
            members = [p for p in group["params"] if is_hidden_matrix(names[p], tuple(p.shape)) == wanted]
            if members:
                part.append(group | {"params": members})
    if not hidden or not others:
        what = "matrices of numbered blocks" if not hidden else "parameters beside such matrices, for AdamW"
        raise SettingsError(f"optimizer.name is muon but this model trains no {what}; choose adamw")
    return MuonWithAdamW(hidden, others, settings)


def state_tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """What the optimizer remembers of a parameter, by its own names; a count becomes an int64 scalar."""
    state = optimizer.state.get(parameter, {})
    return {key: torch.as_tensor(value) for key, value in state.items() if value is not None}


def load_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `state_tensors`; nothing remembered leaves the optimizer as it is.

    The tensors are copied: those of a safetensors file are the file itself in memory. A state in pages is again.
    """

    def loaded(value: torch.Tensor) -> int | torch.Tensor:
        if value.dtype == torch.int64:
            return int(value)
        if value.dtype == torch.uint8 and parameter.is_cuda:  # of bitsandbytes, which knows how it is held
            buffer: torch.Tensor = bitsandbytes_of(optimizer).get_state_buffer(parameter, dtype=torch.uint8)
            return buffer.copy_(value)
        return value.to(parameter.device, copy=True)

    if tensors:
        optimizer.state[parameter] = {key: loaded(value) for key, value in tensors.items()}


def bitsandbytes_of(optimizer: Any) -> Any:
    """The optimizer that Accelerate may have wrapped."""
    return getattr(optimizer, "optimizer", optimizer)
