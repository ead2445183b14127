"""How a model is spread over processes: one function a kind. The loop and the checkpoints know none of them.

Accelerate finds the device and starts the process group, and wraps replicas. DeepSpeed and PyTorch's fully_shard are
called as they are: what Accelerate adds to them (counting of accumulation, mixed precision, saved states) is what the
plan, the loss and the checkpoints do without the number of processes.
"""

import math
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.estimate import kind_of
from distrain_trainer.models.load import widened_parts
from distrain_trainer.models.lora import WEIGHTS, is_adapter, saved_names
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.optimizer import build_optimizer, load_state, state_tensors
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import ZERO

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, tuple[torch.dtype, torch.Size]]

SCALARS = {"step"}
"""What optimizers keep beside tensors of the parameter's shape."""


@dataclass
class Parallel:
    """A model and its optimizer on all processes.

    module: the wrapped `SummedLoss`. parameters: those that a checkpoint holds, by their names in its file. buffers:
    what from_pretrained expects beside them. file: that of the weights, without its ending.
    accumulating: around the forward and backward of a micro-batch, told whether it is the step's last.
    backward: adds the gradients of a loss. step: clips the whole gradient to `optimizer.max_grad_norm`, updates the
    weights where it is finite, drops it, and returns the norm that it had; told the learning rate.
    describe: a parameter's name -> type and full shape of what `read` gives. read: a parameter's name -> its full
    state {"weight": fp32, and the optimizer's tensors by their names}. write: the inverse. written: called when all
    are written. Called by all processes in the same order.
    loss_scaler: of fp16.
    """

    device: torch.device
    module: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]
    buffers: Tensors
    accumulating: Callable[[bool], AbstractContextManager[None]]
    backward: Callable[[torch.Tensor], None]
    step: Callable[[float], float]
    describe: Callable[[str], Shapes]
    read: Callable[[str], Tensors]
    write: Callable[[str, Tensors], None]
    written: Callable[[], None] = lambda: None
    file: str = "model"
    loss_scaler: Any = None

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss of one micro-batch and, in evaluation mode, its predictions."""
        return self.module(**{name: tensor.to(self.device, non_blocking=True) for name, tensor in micro_batch.items()})

    def warm_up(self, empty: Tensors) -> None:
        """One backward pass of weight 0, before a fresh and a resumed run alike.

        In their first one DDP rebuilds its buckets and ZeRO-3 finds out its order: without it the two runs would add up
        in different orders. empty: a micro-batch of weight 0.
        """
        with self.accumulating(True):
            self.backward(self.forward(empty)[0])
        self.optimizer.zero_grad()


def parallelize(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """The model spread as `strategy.kind` asks."""
    kinds = {"single": single, "ddp": ddp, "zero1": zero, "zero2": zero, "zero3": zero, "fsdp": fsdp}
    module.train()
    return kinds[kind_of(settings, world)](settings, accelerator, module, world)


def single(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """One process, the plain model."""
    if world > 1:
        raise SettingsError(
            f"strategy.kind is single but there are {world} processes; start one, or set strategy.kind to ddp"
        )
    parallel = _replica(settings, accelerator, module, world)
    assert isinstance(parallel.module, SummedLoss)
    return parallel


def ddp(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """A replica a process, gradients averaged by DistributedDataParallel; with one process the plain model."""
    accelerator.ddp_handler = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, is not among the arguments that Accelerate passes on.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        parallel = _replica(settings, accelerator, module, world)
    if world > 1:
        assert isinstance(parallel.module, DistributedDataParallel), type(parallel.module)
        assert dist.get_world_size() == world
    return parallel


def _replica(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """A whole model and a whole optimizer on this process."""
    module.to(accelerator.device)
    parameters, buffers, file = _saved(module)
    wrapped: nn.Module = accelerator.prepare_model(module) if world > 1 else module
    optimizer = accelerator.prepare_optimizer(build_optimizer(module, settings.optimizer))
    scaler = accelerator.scaler

    def accumulating(last: bool) -> AbstractContextManager[None]:
        accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext() if last else accelerator.no_sync(wrapped)

    def step(learning_rate: float) -> float:
        norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), _limit(settings)))
        _set_rate(optimizer, learning_rate)
        if math.isfinite(norm) or scaler is not None:  # fp16's scaler skips the step itself, and lowers its scale
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def read(name: str) -> Tensors:
        return _held(optimizer, parameters[name])

    def describe(name: str) -> Shapes:
        return _described(read(name))

    def write(name: str, tensors: Tensors) -> None:
        parameter = parameters[name]
        parameter.data.copy_(tensors["weight"])
        load_state(optimizer, parameter, {key: value for key, value in tensors.items() if key != "weight"})

    return Parallel(
        accelerator.device,
        wrapped,
        optimizer,
        parameters,
        buffers,
        accumulating,
        accelerator.backward,
        step,
        describe,
        read,
        write,
        file=file,
        loss_scaler=scaler,
    )


def zero(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """DeepSpeed's ZeRO: stage 1 shards the optimizer's state, 2 also gradients, 3 also parameters.

    DeepSpeed sees fp32 only: `SummedLoss` computes in `precision`, as it does under every strategy.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it says that it looked for a GPU
    os.environ.setdefault("LOCAL_RANK", "0")  # which a single process does not have
    try:
        import deepspeed
    except ImportError as error:
        raise SettingsError(
            f"strategy.kind is {settings.strategy.kind} but DeepSpeed is not installed; install distrain[deepspeed]"
        ) from error
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    from distrain_trainer.parallel.zero_config import generated, merged
    from distrain_trainer.settings.deepspeed_file import apply

    _meet_alone(world)
    deepspeed.logger.setLevel("WARNING")
    stage = ZERO[settings.strategy.kind or ""]
    sizes = [parameter.numel() for parameter in module.parameters() if parameter.requires_grad]
    config = merged(generated(settings, world, sum(sizes), max(sizes)), apply(settings)[1])
    parameters, buffers, file = _saved(module)
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    # A library of shared memory that it would compile on a CPU, for a reduction that only inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    plain = build_optimizer(module, settings.optimizer)  # by the shapes that parameters have before they are cut apart
    if stage == 3:
        for part in widened_parts(module.model):
            deepspeed.zero.Init(module=part, config_dict_or_path=config)
    engine, optimizer, _, _ = deepspeed.initialize(model=module, optimizer=plain, config=config)
    assert isinstance(engine, DeepSpeedEngine) and engine.zero_optimization_stage() == stage
    assert dist.get_world_size() == world
    flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    state: dict[torch.Tensor, dict[str, Any]] = optimizer.optimizer.state

    def accumulating(last: bool) -> AbstractContextManager[None]:
        engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def step(learning_rate: float) -> float:
        _set_rate(optimizer, learning_rate)
        engine.step()
        return float(engine.get_global_grad_norm()) if engine.was_step_applied() else math.inf

    def kept() -> dict[str, torch.Tensor]:
        """The optimizer's tensors of one shard: what each parameter has too."""
        return {key: value for key, value in state.get(flats[0], {}).items() if torch.is_tensor(value)}

    def link(name: str) -> None:
        """Lets a parameter of stage 1 or 2 find its part of the state; DeepSpeed does so for the first group only."""
        mapping = getattr(parameters[name], "_hp_mapping", None)
        if mapping is not None and kept().keys() - (mapping.optim_fragment or {}).keys() - SCALARS:
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def describe(name: str) -> Shapes:
        parameter, shape = parameters[name], shapes[name]
        if not parameter.requires_grad:
            return {"weight": (parameter.dtype, shape)}
        sharded = {key: (value.dtype, value.shape if key in SCALARS else shape) for key, value in kept().items()}
        return {"weight": (torch.float32, shape)} | sharded

    def read(name: str) -> Tensors:
        parameter = parameters[name]
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
                return {"weight": parameter.detach().clone()}
        link(name)
        tensors = {"weight": safe_get_full_fp32_param(parameter)}
        for key, value in kept().items():
            tensors[key] = value if key in SCALARS else safe_get_full_optimizer_state(parameter, key)
        return tensors

    def write(name: str, tensors: Tensors) -> None:
        parameter = parameters[name]
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
                parameter.data.copy_(tensors["weight"])
            return
        sharded = {key: value for key, value in tensors.items() if key != "weight"}
        for flat in flats:
            for key, value in sharded.items():
                state[flat].setdefault(key, value.clone() if key in SCALARS else torch.zeros_like(flat))
        link(name)
        for key, value in tensors.items():
            if key not in SCALARS:
                _write_shard(parameter, value, None if key == "weight" else key, stage)

    def written() -> None:
        if stage < 3:
            optimizer.update_lp_params()
            return
        optimizer.checkpoint_event_prologue()
        for number in range(len(flats)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        optimizer.checkpoint_event_epilogue()

    return Parallel(
        accelerator.device,
        engine,
        optimizer,
        parameters,
        buffers,
        accumulating,
        engine.backward,
        step,
        describe,
        read,
        write,
        written,
        file,
    )


def _write_shard(parameter: nn.Parameter, value: torch.Tensor, key: str | None, stage: int) -> None:
    """Puts this process's part of a full tensor in its place. key: of the optimizer's state; None for the weight."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.float().flatten()
    if stage == 3:  # whose setters of full tensors take none that the processes do not divide
        part = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        value = value[part * dist.get_rank() :][:part]
        value = nn.functional.pad(value, (0, part - value.numel()))
    value = value.to(parameter.device)
    if key is None:
        (safe_set_local_fp32_param if stage == 3 else safe_set_full_fp32_param)(parameter, value)
    else:
        (safe_set_local_optimizer_state if stage == 3 else safe_set_full_optimizer_state)(parameter, value, key)


def fsdp(settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int) -> Parallel:
    """PyTorch's fully_shard: parameters, gradients and the optimizer's state sharded, gathered block by block."""
    _meet_alone(world)
    mesh = init_device_mesh(accelerator.device.type, (world,))
    for part in widened_parts(module.model):
        fully_shard(module if part is module.model else part, mesh=mesh)
    assert isinstance(module, FSDPModule)
    assert all(isinstance(p, DTensor) and p.device_mesh.size() == world for p in module.parameters())
    parameters, buffers, file = _saved(module)
    optimizer = build_optimizer(module, settings.optimizer)

    def step(learning_rate: float) -> float:
        sharded = nn.utils.clip_grad_norm_(module.parameters(), _limit(settings))
        norm = float(sharded.full_tensor() if isinstance(sharded, DTensor) else sharded)
        _set_rate(optimizer, learning_rate)
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def describe(name: str) -> Shapes:
        return _described(_held(optimizer, parameters[name]))

    def read(name: str) -> Tensors:
        shards = _held(optimizer, parameters[name])
        return {key: shard.full_tensor() if isinstance(shard, DTensor) else shard for key, shard in shards.items()}

    @torch.no_grad()
    def write(name: str, tensors: Tensors) -> None:
        parameter = parameters[name]
        assert isinstance(parameter, DTensor)

        def shard(tensor: torch.Tensor) -> DTensor:
            full = tensor.to(accelerator.device)
            return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)

        parameter.to_local().copy_(shard(tensors["weight"]).to_local())
        state = {key: value if key in SCALARS else shard(value) for key, value in tensors.items() if key != "weight"}
        load_state(optimizer, parameter, state)

    return Parallel(
        accelerator.device,
        module,
        optimizer,
        parameters,
        buffers,
        lambda last: nullcontext(),
        torch.Tensor.backward,
        step,
        describe,
        read,
        write,
        file=file,
    )


def _saved(module: SummedLoss) -> tuple[dict[str, nn.Parameter], Tensors, str]:
    """Parameters and buffers that a model folder holds, by their names in its file, and that file's name."""
    own = dict(module.model.named_parameters())
    parameters = {in_file: own[name] for name, in_file in saved_names(module.model).items()}
    if is_adapter(module.model):
        return parameters, {}, WEIGHTS
    persistent = module.model.state_dict().keys() - own.keys()
    return parameters, {name: buffer for name, buffer in module.model.named_buffers() if name in persistent}, "model"


def _held(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensors:
    """What this process has of a parameter: its weight, and the optimizer's tensors."""
    return {"weight": parameter.detach()} | state_tensors(optimizer, parameter)


def _described(tensors: Tensors) -> Shapes:
    """Type and shape of each; of a DTensor the full shape."""
    return {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()}


def _meet_alone(world: int) -> None:
    """A process group of one, which sharding wants to see where there is one process."""
    if world == 1 and not dist.is_initialized():
        dist.init_process_group(collectives.backend(), store=dist.HashStore(), rank=0, world_size=1)


def _limit(settings: Settings) -> float:
    return settings.optimizer.max_grad_norm or math.inf


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def freeze_unreached(module: SummedLoss, empty: Tensors) -> None:
    """Freezes the parameters that the loss does not reach, for whose gradients the strategies would wait.

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
