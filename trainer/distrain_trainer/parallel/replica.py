"""A whole model and a whole optimizer on every process: `single`, and `ddp` where there are several."""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distrain_trainer.errors import SettingsError
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.average import average_of
from distrain_trainer.parallel.optimizer import build_optimizer, load_state
from distrain_trainer.parallel.state import (
    Shapes,
    Tensors,
    local_tensors,
    norm_limit,
    on_device,
    optimizer_part,
    saved_part,
    set_learning_rate,
    shapes_of,
)
from distrain_trainer.settings.model import Settings


class Replica:
    """One replica per process. With several, DistributedDataParallel averages their gradients."""

    def __init__(self, settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int):
        self.device = accelerator.device
        module.to(self.device)
        self.parameters, self.buffers, self.file = saved_part(module)
        self.module: nn.Module = _distributed(accelerator, module, world) if world > 1 else module
        self.optimizer: torch.optim.Optimizer = accelerator.prepare_optimizer(
            build_optimizer(module, settings.optimizer)
        )
        self.loss_scaler: Any = accelerator.scaler
        self._accelerator, self._limit = accelerator, norm_limit(settings)
        self.average = average_of(settings, self.optimizer, self.finish_writing)

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        loss, predictions = self.module(**on_device(micro_batch, self.device))
        return loss, predictions

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        self._accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext() if last else self._accelerator.no_sync(self.module)

    def backward(self, loss: torch.Tensor) -> None:
        self._accelerator.backward(loss)

    def step(self, *, learning_rate: float) -> float:
        norm = float(self._accelerator.clip_grad_norm_(self.module.parameters(), self._limit))
        set_learning_rate(self.optimizer, learning_rate)
        if math.isfinite(norm) or self.loss_scaler is not None:  # fp16's scaler skips the step and lowers its scale
            self.optimizer.step()
        if math.isfinite(norm):
            self.average.update()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Gradients of DDP are views of its buckets. They stay, so that none of the next step lies beside them."""
        self.optimizer.zero_grad(set_to_none=not isinstance(self.module, DistributedDataParallel))

    def describe(self, name: str) -> Shapes:
        return shapes_of(self.read(name))

    def read(self, name: str) -> Tensors:
        return local_tensors(self.optimizer, self.parameters[name])

    def write(self, name: str, tensors: Tensors) -> None:
        parameter = self.parameters[name]
        parameter.data.copy_(tensors["weight"])
        load_state(self.optimizer, parameter, optimizer_part(tensors))

    def finish_writing(self) -> None:
        pass


def single(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Replica:
    """The plain model on one process."""
    if world > 1:
        raise SettingsError(
            f"strategy.kind is single but there are {world} processes; start one, or set strategy.kind to ddp"
        )
    return Replica(settings, accelerator, module, world)


def _distributed(accelerator: Accelerator, module: SummedLoss, world: int) -> DistributedDataParallel:
    """The module in DistributedDataParallel, as Accelerate makes it."""
    accelerator.ddp_handler = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, is not among the arguments that Accelerate passes on.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped = accelerator.prepare_model(module)
    assert isinstance(wrapped, DistributedDataParallel), type(wrapped)
    assert dist.get_world_size() == world
    return wrapped
