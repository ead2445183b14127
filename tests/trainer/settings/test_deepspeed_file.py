"""What a user's own DeepSpeed or Accelerate file says of the settings."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as draw

from distrain_trainer.commands import show_deepspeed
from distrain_trainer.errors import SettingsError
from distrain_trainer.parallel.zero_config import generated, merged
from distrain_trainer.settings.deepspeed_buckets import BUCKET, bucket_elements
from distrain_trainer.settings.deepspeed_file import apply, processes_sentence, read_user_config
from distrain_trainer.settings.deepspeed_keys import ACCELERATE, ALIASES, DEEPSPEED, Passes, Sets
from distrain_trainer.settings.model import Settings, explicit, flat
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import ZERO
from runs import RunCommand


@given(parameters=draw.integers(1, 10**12), share=draw.floats(0, 1))
def test_a_bucket_holds_the_largest_parameter_and_is_no_larger_than_it_need_be(parameters: int, share: float) -> None:
    largest = max(int(parameters * share), 1)
    elements = bucket_elements(parameters, largest)
    assert elements >= largest and elements % 2 == 0
    assert elements <= max(BUCKET, largest) + 1 and elements <= parameters + 1


def test_every_key_of_deepspeeds_own_models_is_known() -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    blocks = {
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.leaf_module": DeepSpeedZeroLeafModuleConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    }
    for block, model in blocks.items():
        names = [name for key, field in model.model_fields.items() for name in (key, field.alias) if name]
        for name in names:
            key = ALIASES.get(f"{block}.{name}", f"{block}.{name}")
            assert key in DEEPSPEED or any(known.startswith(f"{key}.") for known in DEEPSPEED), key


def test_every_key_of_accelerates_cluster_config_is_known() -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    known = {key.partition(".")[0] for key in ACCELERATE}
    assert set(ClusterConfig.__dataclass_fields__) <= known


def test_every_setting_that_a_file_can_give_is_a_setting() -> None:
    names = flat(Settings())
    assert all(rule.setting in names for rule in (*DEEPSPEED.values(), *ACCELERATE.values()) if isinstance(rule, Sets))


def test_what_is_passed_on_goes_through_and_over_what_is_generated(tmp_path: Path) -> None:
    """Every key that is passed on, in one file."""
    examples = {
        "true or false": True,
        "a whole number": 7,
        "an even whole number": 8,
        "a number": 0.5,
        "text": "a",
        "a list": [],
    }
    tree: dict[str, Any] = {"zero_optimization": {"stage": 3}}
    for key, rule in DEEPSPEED.items():
        if isinstance(rule, Passes):
            value = rule.values[-1] if rule.values else examples[rule.kind]
            node = tree
            *sections, last = key.split(".")
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
    settings, extra = apply(Settings.model_validate({"strategy": {"config": written(tmp_path, tree)}}))
    config = merged(generated(settings, 1, 1000, 100), extra)
    assert merged(config, tree) == config
    assert config["zero_optimization"]["stage"] == 3 and config["log_level"] == "critical"

    from deepspeed.runtime.config import DeepSpeedConfig

    DeepSpeedConfig(config)


def written(folder: Path, content: Any, name: str = "ds.json") -> str:
    """A file with this content: JSON, or the text itself."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def zero(stage: int = 2, **keys: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage} | keys}


def steps(kind: str, **params: Any) -> dict[str, Any]:
    return zero() | {"scheduler": {"type": kind, "params": params}}


TAKEN: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "a stage": (zero(1), {"strategy.kind": "zero1"}, {}),
    "offloading": (
        zero(3, offload_optimizer={"device": "cpu", "pin_memory": False}, offload_param={"device": "cpu"}),
        {"strategy.kind": "zero3", "strategy.offload_optimizer": True, "strategy.offload_parameters": True},
        {"zero_optimization": {"offload_optimizer": {"pin_memory": False}}},
    ),
    "the old name of offloading": (
        zero(cpu_offload=True),
        {"strategy.kind": "zero2", "strategy.offload_optimizer": True},
        {},
    ),
    "no offloading": (
        zero(offload_optimizer={"device": "none"}),
        {"strategy.kind": "zero2", "strategy.offload_optimizer": False},
        {},
    ),
    "clipping": (zero() | {"gradient_clipping": 0.5}, {"strategy.kind": "zero2", "optimizer.max_grad_norm": 0.5}, {}),
    "bf16": (
        zero() | {"bf16": {"enabled": True}, "fp16": {"enabled": False}},
        {"strategy.kind": "zero2", "precision": "bf16"},
        {},
    ),
    "bf16 by its old name": (
        zero() | {"bfloat16": {"enabled": True}},
        {"strategy.kind": "zero2", "precision": "bf16"},
        {},
    ),
    "neither": (
        zero() | {"bf16": {"enabled": False}, "fp16": {"enabled": False, "loss_scale": 0}},
        {"strategy.kind": "zero2", "precision": "fp32"},
        {},
    ),
    "autocast": (
        zero() | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        {"strategy.kind": "zero2", "precision": "bf16"},
        {},
    ),
    "autocast that is off": (
        zero() | {"torch_autocast": {"enabled": False, "dtype": "bfloat16"}},
        {"strategy.kind": "zero2"},
        {},
    ),
    "an optimizer": (
        zero()
        | {"optimizer": {"type": "Adam", "params": {"lr": 3e-4, "betas": [0.9, 0.95], "eps": "1e-6", "fused": True}}},
        {
            "strategy.kind": "zero2",
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 3e-4,
            "optimizer.betas": [0.9, 0.95],
            "optimizer.epsilon": 1e-6,
        },
        {},
    ),
    "sgd": (
        zero() | {"optimizer": {"type": "SGD", "params": {"momentum": 0.9, "nesterov": False}}},
        {"strategy.kind": "zero2", "optimizer.name": "sgd", "optimizer.momentum": 0.9},
        {},
    ),
    "a constant rate": (
        steps("WarmupLR", warmup_num_steps=10, warmup_type="linear", warmup_max_lr=1e-3, warmup_min_lr=0),
        {
            "strategy.kind": "zero2",
            "schedule.kind": "constant",
            "schedule.warmup_steps": 10,
            "optimizer.learning_rate": 1e-3,
        },
        {},
    ),
    "a linear decay": (
        steps("WarmupDecayLR", total_num_steps=100, warmup_num_steps="auto", warmup_max_lr="auto"),
        {"strategy.kind": "zero2", "schedule.kind": "linear", "schedule.max_steps": 100},
        {},
    ),
    "a cosine": (
        steps("WarmupCosineLR", total_num_steps=100, cos_min_ratio=0),
        {"strategy.kind": "zero2", "schedule.kind": "cosine", "schedule.max_steps": 100},
        {},
    ),
    "the batch": (
        zero() | {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1},
        {"strategy.kind": "zero2", "batch.samples": 4, "batch.micro_batches": 16},
        {},
    ),
    "auto everywhere": (
        zero(reduce_bucket_size="auto")
        | {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "fp16": {"enabled": "auto", "initial_scale_power": 16},
            "bf16": {"enabled": "auto"},
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": "auto"}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": "auto"}},
        },
        {"strategy.kind": "zero2", "optimizer.name": "adamw", "schedule.kind": "constant"},
        {},
    ),
    "what only DeepSpeed knows": (
        zero(3, overlap_comm=True, reduce_bucket_size=5e8, prefetch_bucket_size=1000)
        | {"communication_data_type": "bf16", "steps_per_print": 10, "comms_logger": {"enabled": True}},
        {"strategy.kind": "zero3"},
        {
            "zero_optimization": {
                "overlap_comm": True,
                "reduce_bucket_size": 500_000_000,
                "stage3_prefetch_bucket_size": 1000,
            },
            "communication_data_type": "bf16",
            "steps_per_print": 10,
            "comms_logger": {"enabled": True},
        },
    ),
    "what is off": (
        zero(zero_hpz_partition_size=1, zero_quantized_weights=False)
        | {"tensorboard": {"enabled": False}, "amp": {"enabled": False}, "data_efficiency": {}, "aio": {}},
        {"strategy.kind": "zero2"},
        {},
    ),
    "comments": (
        '# mine\n{"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8}}',
        {"strategy.kind": "zero2"},
        {"zero_optimization": {"reduce_bucket_size": 500_000_000}},
    ),
    "accelerate's DeepSpeed": (
        """
        compute_environment: LOCAL_MACHINE
        deepspeed_config: {gradient_accumulation_steps: 1, gradient_clipping: 1.0, offload_optimizer_device: cpu,
          offload_param_device: none, zero3_init_flag: true, zero_stage: 3,
          deepspeed_moe_layer_cls_names: "MixtralSparseMoeBlock,Other"}
        distributed_type: DEEPSPEED
        downcast_bf16: 'no'
        mixed_precision: bf16
        num_processes: 8
        """,
        {
            "strategy.kind": "zero3",
            "strategy.offload_optimizer": True,
            "strategy.offload_parameters": False,
            "optimizer.max_grad_norm": 1.0,
            "precision": "bf16",
        },
        {"zero_optimization": {"leaf_module": {"classes": ["MixtralSparseMoeBlock", "Other"]}}},
    ),
    "accelerate's own answer for several GPUs": (
        """
        compute_environment: LOCAL_MACHINE
        debug: false
        distributed_type: MULTI_GPU
        downcast_bf16: 'no'
        enable_cpu_affinity: false
        gpu_ids: all
        machine_rank: 0
        main_training_function: main
        mixed_precision: bf16
        num_machines: 2
        num_processes: 16
        rdzv_backend: static
        same_network: true
        tpu_env: []
        tpu_use_cluster: false
        tpu_use_sudo: false
        use_cpu: false
        """,
        {"strategy.kind": "ddp", "precision": "bf16"},
        {},
    ),
    "accelerate's answer of earlier versions": (
        """
        compute_environment: LOCAL_MACHINE
        deepspeed_config: {}
        distributed_type: MULTI_GPU
        fsdp_config: {}
        megatron_lm_config: {}
        command_file: null
        mixed_precision: fp16
        num_processes: 2
        """,
        {"strategy.kind": "ddp", "precision": "fp16"},
        {},
    ),
    "accelerate on CPUs": (
        "{distributed_type: MULTI_CPU, mixed_precision: no, num_processes: 4, use_cpu: true}",
        {"strategy.kind": "ddp", "precision": "fp32"},
        {},
    ),
    "accelerate in one process": (
        "{distributed_type: 'NO', mixed_precision: 'no', num_processes: 1}",
        {"strategy.kind": "single", "precision": "fp32"},
        {},
    ),
    "accelerate in one process, as YAML reads it": (
        "{distributed_type: NO, compute_environment: LOCAL_MACHINE}",
        {"strategy.kind": "single"},
        {},
    ),
    "accelerate's FSDP": (
        """
        distributed_type: FSDP
        mixed_precision: no
        fsdp_config: {fsdp_version: 2, fsdp_activation_checkpointing: true, fsdp_offload_params: false,
          fsdp_reshard_after_forward: true, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
        dynamo_config: {dynamo_backend: INDUCTOR}
        """,
        {
            "strategy.kind": "fsdp",
            "model.gradient_checkpointing": True,
            "model.compile": True,
            "precision": "fp32",
        },
        {},
    ),
}


@pytest.mark.parametrize("row", TAKEN)
def test_a_users_file_becomes_settings_and_what_is_passed_on(row: str, tmp_path: Path) -> None:
    content, translated, extra = TAKEN[row]
    path = written(tmp_path, content)
    settings = read_settings(None, {"strategy.config": path}, {})
    assert {name: flat(settings)[name] for name in explicit(settings)} == translated | {"strategy.config": path}
    assert apply(settings) == (settings, extra)


REFUSED: dict[str, tuple[Any, str]] = {
    "a misspelt key": (
        zero(overlap_com=True),
        "zero_optimization.overlap_com in {} is not a key of DeepSpeed; did you mean",
    ),
    "a misspelt block": (zero() | {"zero_optimisation": {}}, "did you mean zero_optimization?"),
    "a key in the wrong place": (zero() | {"overlap_comm": True}, "did you mean zero_optimization.overlap_comm?"),
    "a misspelt key of Accelerate": (
        "{distributed_type: FSDP, fsdp_config: {fsdp_verson: 2}}",
        "fsdp_config.fsdp_version?",
    ),
    "a misspelt key far inside": (zero(offload_optimizer={"devise": "cpu"}), "offload_optimizer.device?"),
    "no stage": ({"gradient_clipping": 1.0}, "strategy.config {} names no stage of ZeRO and no distributed_type"),
    "stage 0": (zero(0), "zero_optimization.stage in {} is 0, but only the stages 1, 2 and 3 are ZeRO"),
    "stage 4": (zero(4), "zero_optimization.stage in {} is 4"),
    "the first form of ZeRO": ({"zero_optimization": True}, "is an old form"),
    "NVMe": (zero(3, offload_param={"device": "nvme", "nvme_path": "/x"}), "could not be resumed"),
    "offloading what stage 2 keeps": (
        zero(offload_param={"device": "cpu"}),
        "strategy.offload_parameters is for zero3",
    ),
    "fp16": (zero() | {"fp16": {"enabled": True}}, "choose bf16 or fp32"),
    "fp16 and bf16": (
        zero() | {"fp16": {"enabled": True}, "bf16": {"enabled": True}},
        "fp16.enabled True and bf16.enabled True contradict each other",
    ),
    "bf16 weights": (zero() | {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "stay fp32"),
    "another optimizer": (
        zero() | {"optimizer": {"type": "Lamb"}},
        "optimizer.type in {} is 'Lamb', but optimizer.name",
    ),
    "Adam without decoupling": (
        zero() | {"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}},
        "only decoupled weight decay",
    ),
    "a learning rate that cannot be": (
        zero() | {"optimizer": {"params": {"lr": -1}}},
        "{} says optimizer.params.lr -1, but it should be greater than 0",
    ),
    "another schedule": (steps("OneCycle"), "schedule.kind knows linear (WarmupDecayLR)"),
    "a logarithmic warm-up": (steps("WarmupLR", warmup_num_steps=100), "has no warmup_type, which is log to DeepSpeed"),
    "a logarithmic warm-up in words": (steps("WarmupLR", warmup_type="log"), "write linear"),
    "a warm-up from elsewhere": (steps("WarmupLR", warmup_min_lr=1e-6), "starts from zero"),
    "curriculum learning": (zero() | {"curriculum_learning": {"enabled": True}}, "DeepSpeed has removed it"),
    "data efficiency": (zero() | {"data_efficiency": {"enabled": True}}, "distrain plans batches itself"),
    "compression": (zero() | {"compression_training": {"weight_quantization": {}}}, "DeepSpeed has removed it"),
    "sparse attention": (zero() | {"sparse_attention": {"mode": "fixed"}}, "DeepSpeed has removed it"),
    "pipelines": (zero() | {"pipeline": {"stages": 2}}, "it does not split layers"),
    "tensor parallelism": (zero() | {"tensor_parallel": {"autotp_size": 2}}, "it does not split layers"),
    "sequence parallelism": (zero() | {"sequence_parallel_size": 2}, "it does not split layers"),
    "MiCS": (zero(3, mics_shard_size=8), "DeepSpeed has removed it"),
    "hpZ": (zero(3, zero_hpz_partition_size=8), "would not be restored from a checkpoint"),
    "quantized gradients": (zero(zero_quantized_gradients=True), "losses would depend on their number"),
    "ZenFlow": (zero(zenflow={"topk_ratio": 0.1}), "updates a part of the weights late"),
    "sums of gradients": (zero() | {"gradient_allreduce_op": "sum"}, "gradients that are averaged"),
    "a monitor": (zero() | {"wandb": {"enabled": True}}, "metrics.jsonl"),
    "an odd bucket": (zero(allgather_bucket_size=1001), "should be an even whole number"),
    "a bucket in words": (zero(reduce_bucket_size="many"), "is 'many', but it should be a whole number"),
    "a type that is none": (zero() | {"communication_data_type": "fp8"}, "should be fp32 or bf16 or fp16"),
    "a block that is none": (zero() | {"timers": 3}, "should be a block of keys"),
    "a key twice": ('{"gradient_clipping": 1, "gradient_clipping": 2}', "gradient_clipping stands twice"),
    "nothing": ("", "holds no keys"),
    "a key twice in YAML": ("distributed_type: FSDP\ndistributed_type: FSDP", "line 2: distributed_type stands twice"),
    "something else": ("{a: [", "is neither JSON nor YAML at line"),
    "accelerate's other devices": ("{distributed_type: XLA}", "only NO, MULTI_GPU, MULTI_CPU, FSDP and DEEPSPEED"),
    "accelerate's fp8": ("{distributed_type: FSDP, mixed_precision: fp8}", "precision knows fp32, bf16 and fp16"),
    "FSDP that offloads": ("{distributed_type: FSDP, fsdp_config: {fsdp_offload_params: true}}", "zero3 can offload"),
    "FSDP that shards less": (
        "{distributed_type: FSDP, fsdp_config: {fsdp_reshard_after_forward: SHARD_GRAD_OP}}",
        "zero1 and zero2 shard less",
    ),
    "tensor parallelism of Accelerate": (
        "{distributed_type: FSDP, parallelism_config: {parallelism_config_tp_size: 2}}",
        "it does not split layers",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_users_file_is_refused_in_one_sentence(row: str, tmp_path: Path) -> None:
    content, sentence = REFUSED[row]
    path = written(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        read_settings(None, {"strategy.config": path}, {})
    assert sentence.format(path) in str(refused.value)
    assert path in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.json cannot be read: No such file"):
        read_settings(None, {"strategy.config": "nowhere.json"}, {})


anything = draw.recursive(
    draw.none() | draw.booleans() | draw.integers() | draw.floats() | draw.sampled_from(["auto", "cpu", "", "1e3"]),
    lambda inner: draw.lists(inner, max_size=2) | draw.dictionaries(draw.sampled_from(["enabled", "x"]), inner),
    max_leaves=3,
)
keys = [*DEEPSPEED, *ACCELERATE]
keys += sorted({key.rpartition(".")[0] for key in keys if "." in key})


@hypothesis.settings(deadline=None)
@given(tree=draw.dictionaries(draw.sampled_from(keys), anything, min_size=1, max_size=4), config=draw.booleans())
def test_whatever_stands_in_a_file_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], config: bool
) -> None:
    nested: dict[str, Any] = zero() if config else {"distributed_type": "DEEPSPEED"}
    for key, value in tree.items():
        node = nested
        *sections, last = key.split(".")
        for section in sections:
            inner = node.setdefault(section, {})
            node = inner if isinstance(inner, dict) else {}
        node[last] = value
    path = written(tmp_path_factory.getbasetemp(), nested, "any.json")
    try:
        taken, extra = apply(Settings.model_validate({"strategy": {"config": path}}))
    except SettingsError as error:
        assert "\n" not in str(error)
        return
    assert apply(taken) == (taken, extra)
    assert taken.strategy.kind in (*ZERO, "fsdp", "ddp", "single") and "auto" not in extra.values()


DISAGREES = [
    (zero(2), {"strategy.kind": "zero3"}, "strategy.kind is 'zero3' but {} says zero_optimization.stage 2"),
    (
        zero() | {"gradient_clipping": 1.0},
        {"optimizer.max_grad_norm": "0.5"},
        "optimizer.max_grad_norm is 0.5 but {} says gradient_clipping 1.0",
    ),
    (
        zero() | {"optimizer": {"params": {"betas": [0.9, 0.98]}}},
        {"optimizer.betas": "0.9,0.999"},
        "optimizer.betas is [0.9, 0.999] but {} says optimizer.params.betas [0.9, 0.98]",
    ),
    (
        zero() | {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2},
        {"batch.micro_batches": "8"},
        "batch.micro_batches is 8 but {} says train_batch_size 8 in micro-batches of 2",
    ),
    (
        steps("WarmupDecayLR", total_num_steps=100),
        {"schedule.epochs": "3"},
        "schedule.epochs is 3 but {} says scheduler.params.total_num_steps 100, which replaces it",
    ),
    ({"gradient_clipping": 1.0}, {"strategy.kind": "fsdp"}, "{} is for DeepSpeed but strategy.kind is fsdp"),
    ({"gradient_clipping": 1.0}, {"strategy.kind": "ddp"}, "{} is for DeepSpeed but strategy.kind is ddp"),
    (
        {"distributed_type": "MULTI_GPU"},
        {"strategy.kind": "zero2"},
        "strategy.kind is 'zero2' but {} says distributed_type 'MULTI_GPU'",
    ),
]


@pytest.mark.parametrize(("content", "flags", "sentence"), DISAGREES)
def test_a_file_that_disagrees_with_what_was_set_is_refused_with_both(
    content: dict[str, Any], flags: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        read_settings(None, flags | {"strategy.config": path}, {})
    assert sentence.format(path) in str(refused.value)


def test_a_file_that_agrees_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, zero() | {"optimizer": {"params": {"betas": [0.9, 0.98]}}})
    flags = {"strategy.kind": "zero2", "optimizer.betas": "0.9,0.98", "strategy.config": path, "seed": "1"}
    settings = read_settings(None, flags, {})
    assert settings.strategy.kind == "zero2" and settings.optimizer.betas == (0.9, 0.98) and settings.seed == 1


def test_the_example_of_the_documents_is_what_they_say(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "strategies.md").read_text()
    path = written(tmp_path, text.partition("```json\n")[2].partition("```")[0])
    settings = read_settings(None, {"strategy.config": path}, {})
    assert settings.strategy.model_dump(exclude={"config"}) == {
        "kind": "zero3",
        "offload_optimizer": True,
        "offload_parameters": False,
    }
    optimizer = settings.optimizer
    assert (settings.precision, optimizer.name, optimizer.betas) == ("bf16", "adamw", (0.9, 0.95))
    assert optimizer.max_grad_norm == 0.5 and settings.batch.samples == 8
    block = {"overlap_comm": True, "reduce_bucket_size": 500_000_000, "offload_optimizer": {"pin_memory": False}}
    assert apply(settings)[1] == {"zero_optimization": block}


def test_accelerates_own_file_round_trips(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    inner = written(tmp_path, zero(3, offload_optimizer={"device": "cpu"}) | {"bf16": {"enabled": True}}, "inner.json")
    config = ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type="DEEPSPEED",
        mixed_precision=None,
        use_cpu=False,
        debug=False,
        num_processes=8,
        deepspeed_config={"deepspeed_config_file": Path(inner).name, "zero3_init_flag": True},
    )
    path = str(tmp_path / "accelerate.yaml")
    config.to_yaml_file(path)
    user = read_user_config(path)
    assert user.settings == {"strategy.kind": "zero3", "strategy.offload_optimizer": True, "precision": "bf16"}
    assert user.extra == {}
    assert any("num_processes" in note for note in user.notes)

    Path(path).write_text(Path(path).read_text().replace("zero3_init_flag: true", "zero_stage: 2"))
    with pytest.raises(
        SettingsError, match=r"deepspeed_config\.zero_stage 2 and zero_optimization\.stage 3 contradict"
    ):
        read_user_config(path)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"strategy.offload_optimizer": "true"}, "is for zero1, zero2 and zero3 but strategy.kind is None"),
        ({"strategy.offload_optimizer": "true", "strategy.kind": "fsdp"}, "but strategy.kind is fsdp"),
        ({"strategy.offload_parameters": "true", "strategy.kind": "zero2"}, "is for zero3 but strategy.kind is zero2"),
        ({"strategy.kind": "zero1", "precision": "fp16"}, "choose bf16 or fp32"),
    ],
)
def test_contradictions_are_refused(flags: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(None, flags, {})
    assert sentence in str(refused.value)


def test_validate_shows_what_deepspeed_is_given(run_command: RunCommand, bert: Path, tmp_path: Path) -> None:
    path = written(tmp_path, zero(3, overlap_comm=True) | {"aio": {"block_size": 1}})
    done = run_command("validate", "--model.name", bert, "--strategy.config", path, "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["strategy"]["kind"] == "zero3"
    comment = "\n".join(line[2:] for line in done.stdout.splitlines() if line.startswith("# "))
    config = json.loads(comment[comment.index("{") :])
    assert config["train_batch_size"] == 2 and config["zero_optimization"]["overlap_comm"] is True
    assert 400 * 32 < config["zero_optimization"]["reduce_bucket_size"] < 100_000
    assert "aio.block_size" in done.stderr and "has no effect" in done.stderr


def test_the_processes_of_accelerates_file_are_told(tmp_path: Path, run_command: RunCommand) -> None:
    path = written(tmp_path, "{distributed_type: MULTI_GPU, num_processes: 4, num_machines: 2}", "multi.yaml")
    done = run_command("validate", "--strategy.config", path)
    assert done.returncode == 0, done.stderr
    assert (
        f"num_processes 4 in {path} starts none: processes are started by `distrain train --processes`" in done.stderr
    )
    assert f"num_machines 2 in {path} has no effect: processes are started by" in done.stderr
    assert processes_sentence(path, 4) is None and processes_sentence(None, 4) is None
    assert processes_sentence(path, 2) == (
        f"{path} is for 4 processes and this run has 2; --processes says how many each node starts"
    )


def test_validate_counts_what_is_trained(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the run does: an adapter's matrices of rank 4, and the head, which is new."""
    flags = {"model.name": str(bert), "strategy.kind": "zero2", "lora.rank": "4"}
    show_deepspeed(read_settings(None, flags, {}), 2)
    comment = "\n".join(line[2:] for line in capsys.readouterr().out.splitlines())
    config = json.loads(comment[comment.index("{") :])
    adapter, pooler, classifier = 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64)), 32 * 33, 2 * 33
    assert config["zero_optimization"]["reduce_bucket_size"] == adapter + pooler + classifier
