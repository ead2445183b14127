"""DeepSpeed's ZeRO: stage 1 shards the optimizer's state, 2 also the gradients, 3 also the parameters.

DeepSpeed sees fp32 only: `SummedLoss` computes in `precision`, as it does under every strategy.
"""

import math
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from distrain_trainer.errors import SettingsError
from distrain_trainer.models.load import widened_parts
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.average import Average
from distrain_trainer.parallel.optimizer import build_optimizer
from distrain_trainer.parallel.state import (
    SCALARS,
    Shapes,
    Tensors,
    on_device,
    optimizer_part,
    saved_part,
    set_learning_rate,
)
from distrain_trainer.parallel.zero_config import generated, merged
from distrain_trainer.settings.deepspeed_file import apply
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import ZERO


class Zero:
    """A model in a DeepSpeedEngine, and DeepSpeed's optimizer around ours."""

    def __init__(self, settings: Settings, accelerator: Accelerator, module: SummedLoss, world: int):
        deepspeed = _deepspeed(settings)
        from deepspeed.runtime.engine import DeepSpeedEngine

        collectives.ensure_group(world)
        self.device, self.loss_scaler = accelerator.device, None
        self.stage = ZERO[settings.strategy.kind or ""]
        sizes = [parameter.numel() for parameter in module.parameters() if parameter.requires_grad]
        config = merged(generated(settings, world, sum(sizes), max(sizes)), apply(settings)[1])
        self.parameters, self.buffers, self.file = saved_part(module)
        self._shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        deepspeed.init_distributed(dist_init_required=False)
        plain = build_optimizer(module, settings.optimizer)  # by the shapes of parameters before they are cut apart
        if self.stage == 3:
            for part in widened_parts(module.model):
                deepspeed.zero.Init(module=part, config_dict_or_path=config)
        self.module, self.optimizer, _, _ = deepspeed.initialize(model=module, optimizer=plain, config=config)
        assert isinstance(self.module, DeepSpeedEngine) and self.module.zero_optimization_stage() == self.stage
        assert dist.get_world_size() == world
        self._flats: list[torch.Tensor] = (
            self.optimizer.fp32_partitioned_groups_flat
            if self.stage == 3
            else self.optimizer.single_partition_of_fp32_groups
        )
        """This process's shard of each group of parameters, fp32."""
        self._state: dict[torch.Tensor, dict[str, Any]] = self.optimizer.optimizer.state
        self.average = Average(settings, self._flats, self._state, self.finish_writing)

    def forward(self, micro_batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        loss, predictions = self.module(**on_device(micro_batch, self.device))
        return loss, predictions

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        self.module.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        self.module.backward(loss)

    def step(self, *, learning_rate: float) -> float:
        set_learning_rate(self.optimizer, learning_rate)
        self.module.step()
        if not self.module.was_step_applied():
            return math.inf
        self.average.update()
        return float(self.module.get_global_grad_norm())

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def describe(self, name: str) -> Shapes:
        parameter, shape = self.parameters[name], self._shapes[name]
        if not parameter.requires_grad:
            return {"weight": (parameter.dtype, shape)}
        sharded = self._shard_state()
        described = {key: (value.dtype, value.shape if key in SCALARS else shape) for key, value in sharded.items()}
        return {"weight": (torch.float32, shape)} | described

    def read(self, name: str) -> Tensors:
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                return {"weight": parameter.detach().clone()}
        self._link(name)
        tensors = {"weight": safe_get_full_fp32_param(parameter)}
        for key, value in self._shard_state().items():
            tensors[key] = value if key in SCALARS else safe_get_full_optimizer_state(parameter, key)
        return tensors

    def write(self, name: str, tensors: Tensors) -> None:
        import deepspeed

        parameter = self.parameters[name]
        if not parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
                parameter.data.copy_(tensors["weight"])
            return
        sharded = optimizer_part(tensors)
        for flat in self._flats:
            for key, value in sharded.items():
                held = value.to(flat.device, copy=True) if key in SCALARS else torch.zeros_like(flat)
                self._state[flat].setdefault(key, held)
        self._link(name)
        for key, value in tensors.items():
            if key not in SCALARS:
                _write_shard(parameter, value, None if key == "weight" else key, self.stage)

    def finish_writing(self) -> None:
        if self.stage < 3:
            self.optimizer.update_lp_params()
            return
        self.optimizer.checkpoint_event_prologue()
        for number in range(len(self._flats)):
            self.optimizer._reassign_or_swap_out_partitioned_parameters(number)
        self.optimizer.checkpoint_event_epilogue()

    def _shard_state(self) -> Tensors:
        """The optimizer's tensors of one shard: those that each parameter has too."""
        return {key: value for key, value in self._state.get(self._flats[0], {}).items() if torch.is_tensor(value)}

    def _link(self, name: str) -> None:
        """Lets a parameter of stage 1 or 2 find its part of the state; DeepSpeed does so for the first group only."""
        mapping = getattr(self.parameters[name], "_hp_mapping", None)
        if mapping is not None and self._shard_state().keys() - (mapping.optim_fragment or {}).keys() - SCALARS:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()


def _deepspeed(settings: Settings) -> Any:
    """The package, quiet and ready for the device that is here. Raises SettingsError where it is not installed."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it says that it looked for a GPU
    os.environ.setdefault("LOCAL_RANK", "0")  # which a single process does not have
    tracked = sys.modules.get("mlflow")
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # its tuner would import it: seconds, and MLflow's telemetry
    try:
        import deepspeed
    except ImportError as error:
        raise SettingsError(
            f"strategy.kind is {settings.strategy.kind} but DeepSpeed is not installed; install distrain[deepspeed]"
        ) from error
    finally:
        sys.modules.pop("mlflow")
        if tracked is not None:
            sys.modules["mlflow"] = tracked
    deepspeed.logger.setLevel("WARNING")
    if not torch.cuda.is_available():
        # A library of shared memory that it would compile on a CPU, for a reduction that only inference uses. With a
        # GPU the table is not looked at, and filling it would try all of its compilers.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _write_shard(parameter: nn.Parameter, value: torch.Tensor, key: str | None, stage: int) -> None:
    """Puts this process's part of a full tensor in its place. key: of the optimizer's state; None for the weight."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.float().flatten()
    if stage == 3:  # whose setters of full tensors refuse sizes that the processes do not divide
        part = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        value = value[part * dist.get_rank() :][:part]
        value = nn.functional.pad(value, (0, part - value.numel()))
    value = value.to(parameter.device)
    if key is None:
        (safe_set_local_fp32_param if stage == 3 else safe_set_full_fp32_param)(parameter, value)
    else:
        (safe_set_local_optimizer_state if stage == 3 else safe_set_full_optimizer_state)(parameter, value, key)
