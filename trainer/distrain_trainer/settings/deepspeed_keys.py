"""What each key of a DeepSpeed JSON and of an `accelerate config` YAML means here (DeepSpeed 0.19, Accelerate 1.15).

A key becomes a setting, is passed on to DeepSpeed, is without effect here, or is refused with the reason. A key that
is in neither table is unknown.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from distrain_trainer.settings.sections import ZERO

Kind = Literal["true or false", "a whole number", "an even whole number", "a number", "text", "a list"]


@dataclass(frozen=True)
class Sets:
    """The setting that the key becomes. values: what the file may write (in small letters) -> the setting's value, None
    where that says nothing; without them the value is the setting's. why: the reason against any other value."""

    setting: str
    values: dict[Any, Any] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Passes:
    """Known to DeepSpeed alone, which gets it as it is."""

    kind: Kind
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ignored:
    """Without effect here."""

    why: str


@dataclass(frozen=True)
class Refused:
    """Breaks what distrain promises. unless: values that do not."""

    why: str
    unless: tuple[Any, ...] = (None, False)


@dataclass(frozen=True)
class Counts:
    """A part of the batch, of which all parts together become settings (`deepspeed_batch`)."""

    part: str


Rule = Sets | Passes | Ignored | Refused | Counts


def _under(prefix: str, names: str, rule: Rule) -> dict[str, Rule]:
    return {f"{prefix}{name}": rule for name in names.split()}


FLAG, WHOLE, NUMBER, TEXT, LIST = (
    Passes("true or false"),
    Passes("a whole number"),
    Passes("a number"),
    Passes("text"),
    Passes("a list"),
)
STAGES = {stage: kind for kind, stage in ZERO.items()}
NO_STAGE = "only the stages 1, 2 and 3 are ZeRO; for plain data parallelism set strategy.kind to ddp, without this file"
DEVICES = {"cpu": True, "none": False}
NO_NVME = "a run whose state lies on NVMe could not be resumed from its checkpoints; choose cpu or none"
GONE = "DeepSpeed has removed it; remove it here too"
ROUNDED = "it rounds what processes exchange, so losses would depend on their number; remove it"
FP32 = "weights, gradients and the optimizer's state stay fp32 here; remove it, precision chooses the forward pass"
OWN_CHECKPOINTS = "distrain writes checkpoints of its own"
SPLITS_MODEL = "distrain splits the batch over processes and shards by ZeRO, it does not split layers; remove it"
MONITORS = "distrain reports every step itself, in metrics.jsonl and report.html; remove it"
LAUNCHES = "processes are started by `distrain train --processes`, by the chart or by a launcher"
OTHER_DATA = "distrain plans batches itself, the same for every number of processes; remove it"
NO_SCHEDULE = "schedule.kind knows linear (WarmupDecayLR), cosine (WarmupCosineLR) and constant (WarmupLR); choose one"
FROM_ZERO = "the learning rate starts from zero here; write 0 or auto"

DEEPSPEED: dict[str, Rule] = {
    # The batch.
    "train_micro_batch_size_per_gpu": Counts("rows"),
    "train_batch_size": Counts("step"),
    "gradient_accumulation_steps": Counts("accumulation"),
    "managed_gradient_accumulation": Refused("distrain says itself which micro-batch is a step's last", (True,)),
    # The optimizer and its schedule.
    "gradient_clipping": Sets("optimizer.max_grad_norm"),
    "optimizer.type": Sets(
        "optimizer.name",
        {"adam": "adamw", "adamw": "adamw", "sgd": "sgd"},
        "optimizer.name knows AdamW and SGD; choose one of them",
    ),
    "optimizer.params.lr": Sets("optimizer.learning_rate"),
    "optimizer.params.betas": Sets("optimizer.betas"),
    "optimizer.params.eps": Sets("optimizer.epsilon"),
    "optimizer.params.weight_decay": Sets("optimizer.weight_decay"),
    "optimizer.params.momentum": Sets("optimizer.momentum"),
    "optimizer.params.adam_w_mode": Refused("only decoupled weight decay (AdamW) is here; remove it", (True,)),
    "optimizer.params.bias_correction": Refused("AdamW always corrects its bias here; remove it", (True,)),
    "optimizer.params.fp32_optimizer_states": Refused(FP32, (True,)),
    "optimizer.params.max_grad_norm": Refused("it is gradient_clipping that DeepSpeed reads; write that"),
    **_under("optimizer.params.", "amsgrad nesterov dampening", Refused("the optimizer here does without; remove it")),
    **_under("optimizer.params.", "torch_adam fused foreach", Ignored("the optimizer is PyTorch's, fused if it can")),
    "optimizer.legacy_fusion": Ignored("the optimizer is PyTorch's, fused if it can"),
    "zero_allow_untested_optimizer": Ignored("it is always on: the optimizer is PyTorch's"),
    "zero_force_ds_cpu_optimizer": Ignored("it is always off: the optimizer is PyTorch's"),
    "scheduler.type": Sets(
        "schedule.kind", {"warmuplr": "constant", "warmupdecaylr": "linear", "warmupcosinelr": "cosine"}, NO_SCHEDULE
    ),
    "scheduler.params.warmup_num_steps": Sets("schedule.warmup_steps"),
    "scheduler.params.total_num_steps": Sets("schedule.max_steps"),
    "scheduler.params.warmup_max_lr": Sets("optimizer.learning_rate"),
    "scheduler.params.warmup_type": Refused("the learning rate rises linearly here; write linear", (None, "linear")),
    **_under("scheduler.params.", "warmup_min_lr warmup_min_ratio", Refused(FROM_ZERO, (None, 0))),
    "scheduler.params.cos_min_ratio": Refused("the cosine ends at zero here; write 0 or auto", (None, 0, 0.0001)),
    "scheduler.params.last_batch_iteration": Refused("a run knows its step itself; remove it", (None, -1)),
    # Precision.
    "bf16.enabled": Sets("precision", {True: "bf16", False: None}),
    "bf16.check_grad_overflow": Ignored("DeepSpeed sees fp32 weights"),
    "bf16.immediate_grad_update": Ignored("DeepSpeed sees fp32 weights"),
    **_under("bf16.", "bf16_master_weights_and_grads bf16_optimizer_states", Refused(FP32)),
    "fp16.enabled": Sets("precision", {True: "fp16", False: None}),
    **_under(
        "fp16.",
        "auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis min_loss_scale",
        Ignored("DeepSpeed sees fp32 weights"),
    ),
    "fp16.fp16_master_weights_and_grads": Refused(FP32),
    "torch_autocast.enabled": Ignored("torch_autocast.dtype says it"),
    "torch_autocast.dtype": Sets(
        "precision",
        {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16"},
        "precision knows bf16 and fp16",
    ),
    "torch_autocast.lower_precision_safe_modules": Refused("PyTorch chooses what is cast; remove it", (None, [])),
    "data_types.grad_accum_dtype": Refused(FP32, (None, "fp32")),
    "data_types.param_dtype": Refused(FP32, (None, "fp32")),
    "data_types.buffer_dtype": Refused(FP32, (None, "fp32")),
    "data_types.keep_in_fp32_modules": Ignored("all weights stay fp32"),
    # ZeRO.
    "zero_optimization.stage": Sets("strategy.kind", STAGES, NO_STAGE),
    "zero_optimization.offload_optimizer.device": Sets("strategy.offload_optimizer", DEVICES, NO_NVME),
    "zero_optimization.offload_param.device": Sets("strategy.offload_parameters", DEVICES, NO_NVME),
    "zero_optimization.cpu_offload": Sets("strategy.offload_optimizer", {True: True, False: False}),
    "zero_optimization.cpu_offload_param": Sets("strategy.offload_parameters", {True: True, False: False}),
    "zero_optimization.cpu_offload_use_pin_memory": Refused(
        "it is pin_memory of offload_optimizer and offload_param that DeepSpeed reads; write that", (None,)
    ),
    **_under(
        "zero_optimization.",
        "offload_optimizer.pin_memory offload_param.pin_memory contiguous_gradients reduce_scatter "
        "use_multi_rank_bucket_allreduce allgather_partitions overlap_comm ignore_unused_parameters "
        "round_robin_gradients parameter_alignment memory_efficient_linear override_module_apply "
        "log_trace_cache_warnings enable_sanity_checks stage3_use_all_reduce_for_fetch_params "
        "stage3_allgather_sequential",
        FLAG,
    ),
    **_under(
        "zero_optimization.",
        "reduce_bucket_size sub_group_size stage3_prefetch_bucket_size stage3_param_persistence_threshold "
        "stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance "
        "stage3_module_granularity_threshold",
        WHOLE,
    ),
    "zero_optimization.allgather_bucket_size": Passes("an even whole number"),
    **_under("zero_optimization.leaf_module.", "classes names name_suffixes", LIST),
    **_under(
        "zero_optimization.",
        "offload_optimizer.nvme_path offload_param.nvme_path offload_optimizer.fast_init",
        Refused(NO_NVME, (None, False, "none")),
    ),
    **_under(
        "zero_optimization.",
        "offload_optimizer.buffer_count offload_optimizer.pipeline_read offload_optimizer.pipeline_write "
        "offload_param.buffer_count offload_param.buffer_size offload_param.max_in_cpu",
        Ignored("it is for NVMe"),
    ),
    "zero_optimization.offload_optimizer.ratio": Refused("all of the optimizer's state is offloaded or none", (1,)),
    "zero_optimization.offload_optimizer.super_offload": Refused("it needs an optimizer of DeepSpeed's; remove it"),
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": Ignored("it is for super_offload"),
    "zero_optimization.compute_grad_norm": Refused("every step's norm is looked at; remove it", (True,)),
    "zero_optimization.zenflow": Refused("it updates a part of the weights late; remove it"),
    "zero_optimization.zero_hpz_partition_size": Refused(
        "the second set of shards in each node would not be restored from a checkpoint; remove it", (None, 0, 1)
    ),
    **_under(
        "zero_optimization.",
        "zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients",
        Refused(ROUNDED),
    ),
    **_under(
        "zero_optimization.",
        "legacy_stage1 mics_shard_size mics_hierarchical_params_gather zeropp_loco_param",
        Refused(GONE, (None, False, -1)),
    ),
    **_under(
        "zero_optimization.",
        "stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save elastic_checkpoint "
        "load_from_fp32_weights pipeline_loading_checkpoint",
        Ignored(OWN_CHECKPOINTS),
    ),
    "zero_optimization.save_muon_momentum_buffer_in_memory": Ignored("it is for Muon"),
    # What processes say to each other.
    "communication_data_type": Passes("text", ("fp32", "bf16", "fp16")),
    "prescale_gradients": FLAG,
    "gradient_predivide_factor": NUMBER,
    "gradient_allreduce_op": Refused("losses are scaled for gradients that are averaged; remove it", (None, "mean")),
    "disable_allgather": FLAG,
    # What DeepSpeed says.
    **_under("", "wall_clock_breakdown memory_breakdown dump_state disable_python_gc", FLAG),
    **_under("", "steps_per_print vocabulary_size", WHOLE),
    "log_level": Passes("text", ("debug", "info", "warning", "error", "critical")),
    **_under("timers.throughput.", "enabled synchronized", FLAG),
    **_under("flops_profiler.", "enabled detailed", FLAG),
    **_under("flops_profiler.", "profile_step module_depth top_modules", WHOLE),
    "flops_profiler.recompute_fwd_factor": NUMBER,
    "flops_profiler.output_file": TEXT,
    **_under("comms_logger.", "enabled prof_all verbose debug", FLAG),
    "comms_logger.prof_ops": LIST,
    **_under("", "tensorboard wandb csv_monitor comet", Refused(MONITORS)),
    # What distrain does itself.
    **_under(
        "activation_checkpointing.",
        "partition_activations number_checkpoints contiguous_memory_optimization cpu_checkpointing profile "
        "synchronize_checkpoint_boundary",
        Ignored("only models that call deepspeed.checkpointing heed it; set model.gradient_checkpointing"),
    ),
    **_under(
        "checkpoint.",
        "tag_validation load_universal use_node_local_storage checkpoint_serialization parallel_write.pipeline_stage "
        "writer.type writer.decoupled writer.io_buffer_size writer.io_buffer_double writer.show_statistics "
        "writer.data_parallel writer.io_multiplier",
        Ignored(OWN_CHECKPOINTS),
    ),
    "datastates_ckpt": Ignored(OWN_CHECKPOINTS),
    **_under(
        "aio.",
        "block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds",
        Ignored("it is for NVMe"),
    ),
    "dataloader_drop_last": Ignored("DeepSpeed loads no data here"),
    "use_data_before_expert_parallelism": Ignored("there is no expert parallelism"),
    "seq_parallel_communication_data_type": Ignored("there is no sequence parallelism"),
    **_under("", "data_efficiency", Refused(OTHER_DATA)),
    **_under("", "pipeline tensor_parallel expert_parallel", Refused(SPLITS_MODEL)),
    "sequence_parallel_size": Refused(SPLITS_MODEL, (None, 0, 1)),
    "weight_quantization": Refused("weights that are trained are fp32; see quantization.bits for a frozen base"),
    "compile.deepcompile": Refused("it is not tested with distrain's checkpoints; see model.compile"),
    **_under("compile.", "passes", Refused("it is not tested with distrain's checkpoints", (None, []))),
    **_under(
        "compile.",
        "autoep_non_moe free_activation free_activation_threshold offload_activation offload_activation_pin_memory "
        "offload_opt_states double_buffer symmetric_memory debug_log offload_parameters sync_before_reduce "
        "sync_after_reduce sync_before_allgather sync_after_allgather keep_int_input_tensors keep_all_input_tensors",
        Ignored("it is for deepcompile"),
    ),
    "hybrid_engine": Refused("it is for reinforcement learning, which distrain does not do; remove it"),
    "autotuning": Refused("it starts runs of its own; remove it, batch.tokens=auto finds what fits"),
    "msamp": Refused("precision knows fp32, bf16 and fp16; remove it"),
    **_under(
        "",
        "nebula compression_training amp quantize_training sparse_gradients eigenvalue sparse_attention elasticity "
        "graph_harvesting curriculum_learning progressive_layer_drop",
        Refused(GONE),
    ),
}

ALIASES = {
    "bfloat16": "bf16",
    **{
        f"zero_optimization.{name}": f"zero_optimization.stage3_{name}"
        for name in (
            "prefetch_bucket_size",
            "param_persistence_threshold",
            "model_persistence_threshold",
            "max_live_parameters",
            "max_reuse_distance",
            "module_granularity_threshold",
            "use_all_reduce_for_fetch_params",
            "allgather_sequential",
            "gather_16bit_weights_on_model_save",
        )
    },
}
"""Other names that DeepSpeed takes for the same."""

WRAPS = "torch's fully_shard wraps each block of the model here"

ACCELERATE: dict[str, Rule] = {
    "compute_environment": Refused("only LOCAL_MACHINE can be read", (None, "LOCAL_MACHINE")),
    "distributed_type": Sets(
        "strategy.kind",
        {"no": "single", False: "single", "multi_gpu": "ddp", "multi_cpu": "ddp", "fsdp": "fsdp", "deepspeed": None},
        "only NO, MULTI_GPU, MULTI_CPU, FSDP and DEEPSPEED can be read; set strategy.kind instead of strategy.config",
    ),
    "mixed_precision": Sets(
        "precision",
        {"no": "fp32", False: "fp32", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"},
        "precision knows fp32, bf16 and fp16",
    ),
    "fp16": Sets("precision", {True: "fp16", False: None}),
    "use_cpu": Ignored("the GPU is used where there is one"),
    "num_processes": Counts("processes"),
    **_under(
        "",
        "debug machine_rank num_machines gpu_ids main_process_ip main_process_port rdzv_backend "
        "same_network main_training_function enable_cpu_affinity mpirun_config",
        Ignored(LAUNCHES),
    ),
    "dynamo_config.dynamo_backend": Sets(
        "model.compile", {"no": None, "inductor": True}, "model.compile uses INDUCTOR; choose it or NO"
    ),
    "dynamo_config.dynamo_mode": Refused("model.compile has no modes", (None, "default")),
    "dynamo_config.dynamo_use_fullgraph": Refused("model.compile allows several graphs"),
    "dynamo_config.dynamo_use_dynamic": Ignored("model.compile always uses dynamic shapes"),
    "dynamo_config.dynamo_use_regional_compilation": Refused("model.compile takes the whole model"),
    **_under("", "parallelism_config megatron_lm_config", Refused(SPLITS_MODEL)),
    "fp8_config": Refused("precision knows fp32, bf16 and fp16; remove it"),
    **_under(
        "",
        "downcast_bf16 tpu_name tpu_zone tpu_use_cluster tpu_use_sudo command_file commands tpu_vm tpu_env",
        Refused("distrain does not run on TPUs; remove it", (None, False, "no", [])),
    ),
    "deepspeed_config.deepspeed_config_file": TEXT,
    "deepspeed_config.zero_stage": Sets("strategy.kind", STAGES, NO_STAGE),
    "deepspeed_config.offload_optimizer_device": Sets("strategy.offload_optimizer", DEVICES, NO_NVME),
    "deepspeed_config.offload_param_device": Sets("strategy.offload_parameters", DEVICES, NO_NVME),
    **_under(
        "deepspeed_config.",
        "offload_optimizer_nvme_path offload_param_nvme_path",
        Refused(NO_NVME, (None, False, "none")),
    ),
    "deepspeed_config.gradient_accumulation_steps": Counts("accumulation"),
    "deepspeed_config.gradient_clipping": Sets("optimizer.max_grad_norm"),
    "deepspeed_config.zero3_save_16bit_model": Ignored(OWN_CHECKPOINTS),
    "deepspeed_config.zero3_init_flag": Ignored("distrain decides itself how weights are loaded"),
    "deepspeed_config.deepspeed_moe_layer_cls_names": TEXT,
    **_under(
        "deepspeed_config.",
        "deepspeed_multinode_launcher deepspeed_hostfile deepspeed_exclusion_filter deepspeed_inclusion_filter",
        Ignored(LAUNCHES),
    ),
    "fsdp_config.fsdp_activation_checkpointing": Sets("model.gradient_checkpointing", {True: True, False: False}),
    "fsdp_config.fsdp_activation_checkpointing_offload": Refused("activations stay where they are computed; remove it"),
    "fsdp_config.fsdp_offload_params": Refused("fsdp keeps its shards on the device here; zero3 can offload"),
    "fsdp_config.fsdp_reshard_after_forward": Refused(
        "fsdp shards parameters, gradients and state here; zero1 and zero2 shard less", (None, True, "FULL_SHARD")
    ),
    "fsdp_config.fsdp_sharding_strategy": Refused(
        "fsdp shards parameters, gradients and state here; zero1 and zero2 shard less", (None, 1, "FULL_SHARD")
    ),
    **_under(
        "fsdp_config.",
        "fsdp_auto_wrap_policy fsdp_transformer_layer_cls_to_wrap fsdp_min_num_params fsdp_backward_prefetch "
        "fsdp_forward_prefetch fsdp_use_orig_params",
        Ignored(WRAPS),
    ),
    "fsdp_config.fsdp_version": Ignored("fsdp is always version 2, torch's fully_shard"),
    "fsdp_config.fsdp_state_dict_type": Ignored(OWN_CHECKPOINTS),
    "fsdp_config.fsdp_cpu_ram_efficient_loading": Ignored("distrain decides itself how weights are loaded"),
    "fsdp_config.fsdp_sync_module_states": Ignored("all processes load the same weights"),
}
