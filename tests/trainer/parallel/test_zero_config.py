"""What DeepSpeed is given."""

import json
import subprocess
import sys
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as draw

from distrain_trainer.parallel.zero_config import generated
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import ZERO

GOLDEN = {
    "train_batch_size": 4,
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 1.0,
    "fp16": {"enabled": False},
    "bf16": {"enabled": False},
    "torch_autocast": {"enabled": False},
    "communication_data_type": "fp32",
    "data_types": {"grad_accum_dtype": "fp32"},
    "prescale_gradients": False,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "steps_per_print": 2147483647,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "log_level": "error",
    "timers": {"throughput": {"enabled": False, "synchronized": False}},
}
GOLDEN_ZERO = {
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 110_000_002,
    "allgather_partitions": True,
    "allgather_bucket_size": 110_000_002,
    "round_robin_gradients": False,
    "sub_group_size": 1_000_000_000,
}
ON_CPU = {"device": "cpu", "pin_memory": True}
GOLDEN_KINDS: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1, "overlap_comm": False},
    "zero2": {"stage": 2, "overlap_comm": False, "offload_optimizer": ON_CPU},
    "zero3": {
        "stage": 3,
        "overlap_comm": True,
        "stage3_prefetch_bucket_size": 50_000_000,
        "stage3_param_persistence_threshold": 100_000,
        "stage3_max_live_parameters": 220_000_004,
        "stage3_max_reuse_distance": 220_000_004,
        "stage3_gather_16bit_weights_on_model_save": False,
        "offload_optimizer": ON_CPU,
        "offload_param": ON_CPU,
    },
}


@pytest.mark.parametrize("kind", ZERO)
def test_the_whole_configuration_of_each_kind(kind: str) -> None:
    offload = {"offload_optimizer": kind != "zero1", "offload_parameters": kind == "zero3"}
    settings = Settings.model_validate({"strategy": {"kind": kind} | offload})
    expected = GOLDEN | {"zero_optimization": GOLDEN_ZERO | GOLDEN_KINDS[kind]}
    assert generated(settings, world=4, parameters=110_000_001, largest=23_000_000) == expected


values = {
    "kind": draw.sampled_from(sorted(ZERO)),
    "offload": draw.booleans(),
    "norm": draw.floats(0, 100),
    "parameters": draw.integers(1, 10**12),
    "share": draw.floats(0, 1),
}


@hypothesis.settings(deadline=None)
@given(**values)
def test_deepspeed_takes_every_generated_configuration(
    kind: str, offload: bool, norm: float, parameters: int, share: float
) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    strategy = {"kind": kind, "offload_optimizer": offload, "offload_parameters": offload and kind == "zero3"}
    settings = Settings.model_validate({"strategy": strategy, "optimizer": {"max_grad_norm": norm}})
    config = generated(settings, 1, parameters, max(int(parameters * share), 1))
    assert '"auto"' not in json.dumps(config)
    read, own = DeepSpeedConfig(config), DeepSpeedZeroConfig(stage=ZERO[kind])
    assert (read.train_batch_size, read.gradient_accumulation_steps, read.gradient_clipping) == (1, 1, norm)
    assert read.zero_optimization_stage == ZERO[kind] and read.zero_config.overlap_comm is own.overlap_comm
    assert not (read.float16_config.enabled or read.bfloat16_config.enabled or read.torch_autocast_enabled)
    for asked, block in ((offload, "offload_optimizer"), (strategy["offload_parameters"], "offload_param")):
        found = getattr(read.zero_config, block)
        assert (found.device if found else None) == ("cpu" if asked else None)


@pytest.mark.matrix
def test_deepspeed_brings_no_mlflow_into_a_run() -> None:
    """Its tuner imports MLflow where that is installed, which takes seconds and has telemetry of its own."""
    program = (
        "import sys; from distrain_trainer.parallel.zero import _deepspeed; "
        "from distrain_trainer.settings.model import Settings; _deepspeed(Settings()); print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
