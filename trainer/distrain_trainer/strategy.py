"""How a model is spread over processes: one function a kind. The loop knows none of them.

Accelerate moves the model to its device, casts the forward pass and wraps the model; its counting of accumulation,
prepared loaders and saved states are not used, because the plan and the checkpoints do without the number of
processes.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distrain_trainer.adapters import WEIGHTS, is_adapter, saved_names
from distrain_trainer.errors import SettingsError
from distrain_trainer.loss import SummedLoss
from distrain_trainer.optimizer import build_optimizer, load_state, state_tensors
from distrain_trainer.settings import Settings

Tensors = dict[str, torch.Tensor]


@dataclass
class Parallel:
    """A model and its optimizer on all processes.

    module: the wrapped `SummedLoss`. parameters: those that a checkpoint holds, by their names in its file. buffers:
    what from_pretrained expects beside them. read: a parameter's name -> its full state {"weight": fp32, and the
    optimizer's tensors by their names}; called by all processes in the same order. write: the inverse. unused: names
    of parameters that the loss does not reach, frozen. file: that of the weights, without its ending.
    """

    accelerator: Accelerator
    module: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]
    buffers: Tensors
    read: Callable[[str], Tensors]
    write: Callable[[str, Tensors], None]
    unused: list[str]
    file: str = "model"

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss and logits of one micro-batch."""
        device = self.accelerator.device
        return self.module(**{name: tensor.to(device, non_blocking=True) for name, tensor in micro_batch.items()})

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around the forward and backward of a micro-batch: only a step's last one joins gradients."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            yield

    def clip(self, norm: float) -> float:
        """Clips the whole gradient to `norm` (0: leaves it) and returns the norm it had."""
        return float(self.accelerator.clip_grad_norm_(self.module.parameters(), norm or float("inf")))

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a scaled loss."""
        self.accelerator.backward(loss)

    def update(self, learning_rate: float, finite: bool) -> None:
        """One optimizer step; none where the gradient is not finite (fp16's scaler then lowers its scale)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if finite or self.accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def loss_scale(self) -> dict | None:
        """State of fp16's loss scaler."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None


def parallelize(
    settings: Settings, accelerator: Accelerator, module: SummedLoss, empty: Tensors, world: int
) -> Parallel:
    """The model spread as `strategy.kind` asks. empty: a micro-batch of weight 0."""
    kind = settings.strategy.kind or ("ddp" if world > 1 else "single")
    return {"single": single, "ddp": ddp}[kind](settings, accelerator, module, empty, world)


def single(settings: Settings, accelerator: Accelerator, module: SummedLoss, empty: Tensors, world: int) -> Parallel:
    """One process, the plain model."""
    if world > 1:
        raise SettingsError(
            f"strategy.kind is single but there are {world} processes; start one, or set strategy.kind to ddp"
        )
    parallel = _replica(settings, accelerator, module, empty)
    assert isinstance(parallel.module, SummedLoss)
    return parallel


def ddp(settings: Settings, accelerator: Accelerator, module: SummedLoss, empty: Tensors, world: int) -> Parallel:
    """A replica a process, gradients averaged by DistributedDataParallel; with one process the plain model."""
    accelerator.ddp_handler = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, is not among the arguments that Accelerate passes on.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        parallel = _replica(settings, accelerator, module, empty)
    if world > 1:
        assert isinstance(parallel.module, DistributedDataParallel), type(parallel.module)
        assert torch.distributed.get_world_size() == world
        # DDP rebuilds its buckets after its first backward pass, which changes the order of sums: a resumed run
        # would differ from one that was never interrupted. One backward pass of weight 0 puts that behind both.
        _backward_of_nothing(parallel.module, accelerator, empty)
        parallel.optimizer.zero_grad()
    return parallel


def _replica(settings: Settings, accelerator: Accelerator, module: SummedLoss, empty: Tensors) -> Parallel:
    """A whole model and a whole optimizer on this process."""
    module.to(accelerator.device)
    module.train()
    unused = _freeze_unused(module, accelerator, empty)
    parameters = {in_file: module.model.get_parameter(name) for name, in_file in saved_names(module.model).items()}
    buffers, file = {}, WEIGHTS
    if not is_adapter(module.model):
        persistent = module.model.state_dict().keys() - parameters.keys()
        buffers = {name: buffer for name, buffer in module.model.named_buffers() if name in persistent}
        file = "model"
    wrapped, optimizer = accelerator.prepare(module, build_optimizer(module, settings.optimizer))

    def read(name: str) -> Tensors:
        return {"weight": parameters[name].detach()} | state_tensors(optimizer, parameters[name])

    def write(name: str, tensors: Tensors) -> None:
        parameter = parameters[name]
        parameter.data.copy_(tensors["weight"])
        load_state(optimizer, parameter, {key: value for key, value in tensors.items() if key != "weight"})

    return Parallel(accelerator, wrapped, optimizer, parameters, buffers, read, write, unused, file)


def _freeze_unused(module: SummedLoss, accelerator: Accelerator, empty: Tensors) -> list[str]:
    """Freezes the parameters that get no gradient, for which DDP would wait; returns their names."""
    _backward_of_nothing(module, accelerator, empty)
    unused = [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None]
    for name in unused:
        module.model.get_parameter(name).requires_grad_(False)
    module.zero_grad()
    return unused


def _backward_of_nothing(module: nn.Module, accelerator: Accelerator, empty: Tensors) -> None:
    with accelerator.autocast():
        loss, _ = module(**{name: tensor.to(accelerator.device) for name, tensor in empty.items()})
    loss.backward()
