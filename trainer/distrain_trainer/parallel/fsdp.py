"""PyTorch's fully_shard: parameters, gradients and the optimizer's state sharded, gathered block by block."""

import math
from collections import Counter
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from distrain_trainer.models.load import widened_parts
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.average import average_of
from distrain_trainer.parallel.optimizer import build_optimizer, load_state
from distrain_trainer.parallel.state import (
    SCALARS,
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


def uses(module: nn.Module) -> Counter[nn.Parameter]:
    """How often each parameter stands in a module: more than once where modules are tied."""
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))


class FullyShard:
    """The model's blocks, then the model, cut apart over all processes; parameters are DTensors."""

    def __init__(self, settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int):
        collectives.ensure_group(world)
        self.device = accelerator.device
        mesh = init_device_mesh(self.device.type, (world,))
        times = uses(module.model)
        for part in widened_parts(module.model):
            if part is module.model:
                fully_shard(module, mesh=mesh)
            elif all(times.get(parameter, count) == count for parameter, count in uses(part).items()):
                fully_shard(part, mesh=mesh)  # one that is tied to others is cut with the model
        assert isinstance(module, FSDPModule)
        assert all(isinstance(p, DTensor) and p.device_mesh.size() == world for p in module.parameters())
        self.module: nn.Module = module
        self.parameters, self.buffers, self.file = saved_part(module)
        self.optimizer = build_optimizer(module, settings.optimizer)
        self.loss_scaler = None
        self.average = average_of(settings, self.optimizer, self.finish_writing)
        self._limit = norm_limit(settings)

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        loss, predictions = self.module(**on_device(micro_batch, self.device))
        return loss, predictions

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()  # each micro-batch's gradients are reduced at once: whole ones would not fit

    def backward(self, loss: torch.Tensor) -> None:
        torch.autograd.backward(loss)

    def step(self, *, learning_rate: float) -> float:
        sharded = nn.utils.clip_grad_norm_(self.module.parameters(), self._limit)
        norm = float(sharded.full_tensor() if isinstance(sharded, DTensor) else sharded)
        set_learning_rate(self.optimizer, learning_rate)
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update()
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def describe(self, name: str) -> Shapes:
        return shapes_of(local_tensors(self.optimizer, self.parameters[name]))

    def read(self, name: str) -> Tensors:
        shards = local_tensors(self.optimizer, self.parameters[name])
        return {key: shard.full_tensor() if isinstance(shard, DTensor) else shard for key, shard in shards.items()}

    @torch.no_grad()
    def write(self, name: str, tensors: Tensors) -> None:
        parameter = self.parameters[name]
        assert isinstance(parameter, DTensor)

        def shard(tensor: torch.Tensor) -> DTensor:
            full = tensor.to(self.device)
            return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)

        parameter.to_local().copy_(shard(tensors["weight"]).to_local())
        state = {key: value if key in SCALARS else shard(value) for key, value in optimizer_part(tensors).items()}
        load_state(self.optimizer, parameter, state)

    def finish_writing(self) -> None:
        pass
