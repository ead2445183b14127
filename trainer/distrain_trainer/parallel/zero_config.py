"""DeepSpeed's configuration: generated from the settings, with what the user's own file passes on put over it.

Needs neither torch nor DeepSpeed, so that `distrain validate` shows it anywhere.
"""

from typing import Any

from distrain_trainer.settings.deepspeed_buckets import bucket_elements, persistent_elements, prefetch_elements
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import ZERO


def generated(settings: Settings, world: int, parameters: int, largest: int) -> dict[str, Any]:
    """The whole configuration for strategy.kind zero1, zero2 or zero3, of plain numbers.

    world: processes. parameters, largest: as in `bucket_elements`. A micro-batch is one to DeepSpeed, whatever it
    holds, and each step's last one is said by the loop. Precision is the loss module's matter, so DeepSpeed sees fp32.
    Communication overlaps the backward pass where it does by DeepSpeed's own default, under stage 3; on a CPU that has
    no effect, under stages 1 and 2 it would double the buckets.
    """
    assert settings.strategy.kind in ZERO, settings.strategy.kind
    bucket = bucket_elements(parameters, largest)
    zero: dict[str, Any] = {
        "stage": ZERO[settings.strategy.kind],
        "contiguous_gradients": True,
        "overlap_comm": settings.strategy.kind == "zero3",
        "reduce_scatter": True,
        "reduce_bucket_size": bucket,
        "allgather_partitions": True,
        "allgather_bucket_size": bucket,
        "round_robin_gradients": False,
        "sub_group_size": 1_000_000_000,
    }
    if settings.strategy.kind == "zero3":
        zero |= {
            "stage3_prefetch_bucket_size": prefetch_elements(bucket),
            "stage3_param_persistence_threshold": persistent_elements(largest),
            "stage3_max_live_parameters": 2 * bucket,
            "stage3_max_reuse_distance": 2 * bucket,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    if settings.strategy.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.strategy.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.optimizer.max_grad_norm,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "prescale_gradients": False,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "log_level": "error",
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }


def merged(config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """A configuration with what the user's file passes on put over it, at every depth."""
    result = dict(config)
    for key, value in extra.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result
