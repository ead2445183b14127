"""What a checkpoint holds of a model: which parameters, under which names, and this process's tensors of each."""

import math

import torch
from torch import nn

from distrain_trainer.models.lora import WEIGHTS, is_adapter, saved_names
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.optimizer import state_tensors
from distrain_trainer.settings.model import Settings

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[torch.dtype, torch.Size]]

SCALARS = {"step"}
"""What optimizers keep beside tensors of the parameter's shape."""


def saved_part(module: SummedLoss) -> tuple[dict[str, nn.Parameter], Tensors, str]:
    """Parameters and buffers that a model folder holds, by their names in its file, and that file's name."""
    own = dict(module.model.named_parameters())
    parameters = {in_file: own[name] for name, in_file in saved_names(module.model).items()}
    if is_adapter(module.model):
        return parameters, {}, WEIGHTS
    persistent = module.model.state_dict().keys() - own.keys()
    return parameters, {name: buffer for name, buffer in module.model.named_buffers() if name in persistent}, "model"


def local_tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensors:
    """What this process has of a parameter: its weight, and the optimizer's tensors."""
    return {"weight": parameter.detach()} | state_tensors(optimizer, parameter)


def shapes_of(tensors: Tensors) -> Shapes:
    """Type and shape of each; of a DTensor the full shape."""
    return {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()}


def optimizer_part(tensors: Tensors) -> Tensors:
    """The tensors of a parameter's full state without its weight."""
    return {key: tensor for key, tensor in tensors.items() if key != "weight"}


def on_device(micro_batch: Tensors, device: torch.device) -> Tensors:
    """The tensors of a micro-batch where the model is; from pinned memory the copy overlaps the computation."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in micro_batch.items()}


def norm_limit(settings: Settings) -> float:
    """The largest norm of the whole gradient; infinite where it is not clipped."""
    return settings.optimizer.max_grad_norm or math.inf


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Gives every group of parameters its learning rate: the same, times what its depth asks for."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["scale"]
