"""How a model is spread over processes: what the loop and the checkpoints see of it, and the choice of the kind.

One file a kind: `replica` (single and ddp), `zero` and `fsdp`. Accelerate finds the device and starts the process
group, and wraps replicas. DeepSpeed and PyTorch's fully_shard are called as they are: what Accelerate adds to them
(accumulation, mixed precision, saved states) is done by the plan, the loss and the checkpoints, which do not depend on
the number of processes.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn

from distrain_trainer.memory.estimate import kind_of
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.average import Average
from distrain_trainer.parallel.fsdp import FullyShard
from distrain_trainer.parallel.replica import Replica, single
from distrain_trainer.parallel.state import Shapes as Shapes
from distrain_trainer.parallel.state import Tensors as Tensors
from distrain_trainer.parallel.zero import Zero
from distrain_trainer.settings.model import Settings


class Parallel(Protocol):
    """A model and its optimizer on all processes, which call these methods in the same order.

    module: the wrapped `SummedLoss`. parameters: those that a checkpoint holds, by their names in its file. buffers:
    what from_pretrained expects beside them. file: that of the weights, without its ending. loss_scaler: that of fp16,
    None where there is none. average: of the weights; it does nothing where `ema.decay` is unset.
    """

    device: torch.device
    module: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]
    buffers: Tensors
    file: str
    loss_scaler: Any
    average: Average

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss of one micro-batch and, in evaluation mode, its predictions."""

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """Stands around the forward and backward pass of a micro-batch. last: whether it is the last of its step."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a loss to those that are there."""

    def step(self, *, learning_rate: float) -> float:
        """Clips the whole gradient to `optimizer.max_grad_norm`, updates the weights where it is finite, and drops it.

        Returns the norm before clipping.
        """

    def zero_grad(self) -> None:
        """Drops the gradients without an update."""

    def describe(self, name: str) -> Shapes:
        """Type and full shape of each tensor that `read` gives of a parameter. No communication."""

    def read(self, name: str) -> Tensors:
        """A parameter's full state: {"weight": fp32, and the optimizer's tensors under their own names}."""

    def write(self, name: str, tensors: Tensors) -> None:
        """The inverse of `read`; `finish_writing` follows once all parameters are written."""

    def finish_writing(self) -> None:
        """Makes the parameters that were written those that the forward pass uses."""


def parallelize(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """The model spread as `strategy.kind` asks. Raises SettingsError where that is not possible here."""
    module.train()
    match kind_of(settings, world):
        case "single":
            return single(settings, accelerator, module, world)
        case "ddp":
            return Replica(settings, accelerator, module, world)
        case "fsdp":
            return FullyShard(settings, accelerator, module, world)
        case _:
            return Zero(settings, accelerator, module, world)


def warm_up(parallel: Parallel, empty: Tensors) -> None:
    """One backward pass of weight 0, before a fresh and a resumed run alike.

    In their first one DDP rebuilds its buckets and ZeRO-3 learns the order of its modules: without it the two runs
    would add up gradients in different orders. empty: a micro-batch of weight 0.
    """
    with parallel.accumulate(last=True):
        parallel.backward(parallel.forward(empty)[0])
    parallel.zero_grad()


def freeze_unreached(module: SummedLoss, empty: Tensors) -> None:
    """Freezes the parameters that the loss does not reach: the strategies would wait for their gradients.

    empty: a micro-batch of weight 0.
    """
    device = next(module.parameters()).device
    loss, _ = module(**{name: tensor.to(device) for name, tensor in empty.items()})
    reached, seen, nodes = set(), set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            reached.add(id(leaf))
        nodes += [inner for inner, _ in node.next_functions]
    for parameter in module.parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
