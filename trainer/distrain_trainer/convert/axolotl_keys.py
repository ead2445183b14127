"""Keys of axolotl's YAML (0.19, with older names that many files still have)."""

from distrain_trainer.convert.rules import (
    ALWAYS,
    ATTENTION,
    CACHED,
    LOADERS,
    LORA_ALONE,
    NO_ATTENTION,
    NO_FOREIGN_CODE,
    NO_OPTIMIZER,
    NO_PADDING,
    NO_SCHEDULE,
    NO_SCRATCH,
    NO_STREAM,
    NO_TF32,
    NO_TOKEN,
    NO_TOKENIZER,
    OPTIMIZERS,
    OWN_CHECKPOINTS,
    OWN_KERNELS,
    SCHEDULES,
    SHOWN,
    SWITCH,
    Dialect,
    Part,
    Rule,
    keys,
)
from distrain_trainer.settings.deepspeed_keys import LAUNCHES, Counts, Ignored, Refused, Sets

NO_PREFERENCES = "of preferences and rewards there are pairs of answers and judged ones; see the section preference"
ONE_RATE = "all weights that are trained share optimizer.learning_rate; leave it out"
NO_SPLIT_MODEL = "the batch is split over processes, rows are not; leave it out, zero3 and fsdp shard the model"

AXOLOTL_KEYS: dict[str, Rule] = {
    # The model.
    "base_model": Sets("model.name"),
    "revision_of_model": Part("revision", "model.revision"),
    **keys(
        "model_type tokenizer_type processor_type type_of_model tokenizer_use_fast tokenizer_legacy",
        Ignored("transformers finds the classes by the model's own configuration"),
    ),
    **keys("base_model_config tokenizer_config cls_model_config", Refused(NO_TOKENIZER)),
    **keys("overrides_of_model_config overrides_of_model_kwargs rope_scaling reinit_weights", Refused(NO_SCRATCH)),
    **keys(
        "is_falcon_derived_model is_llama_derived_model tokenizer_use_mistral_common num_labels "
        "is_mistral_derived_model is_qwen_derived_model strict low_cpu_mem_usage device_map max_memory "
        "gpu_memory_limit device experimental_skip_move_to_device",
        Ignored("models are loaded in the one way that fits the strategy"),
    ),
    "trust_remote_code": Refused(NO_FOREIGN_CODE),
    **keys(
        "special_tokens added_tokens_overrides eot_tokens",
        Refused(
            "tokens are the tokenizer's own; add them there, save it with the model and name that folder",
            (None, {}, []),
        ),
    ),
    "resize_token_embeddings_to_32x": Refused("embeddings keep their size; leave it out"),
    "unfrozen_parameters": Refused("model.freeze names what is not trained; write its opposite there", (None, [])),
    **keys(
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel flash_attn_cross_entropy "
        "flash_attn_rms_norm flash_attn_fuse_mlp flash_optimum use_kernels tiled_mlp plugins liger_rope "
        "liger_rms_norm liger_glu_activation liger_layer_norm liger_fused_linear_cross_entropy cut_cross_entropy "
        "unsloth_cross_entropy_loss fused_attn_kernel use_scattermoe use_sonicmoe experts_implementation "
        "liger_rms_norm_gated llama4_linearized_experts ple_cpu_offload unsloth_lora_mlp unsloth_lora_qkv "
        "unsloth_lora_o",
        Refused(OWN_KERNELS, (None, False, [])),
    ),
    "chunked_cross_entropy": Sets("model.chunked_loss", SWITCH),
    "chunked_cross_entropy_num_chunks": Ignored("chunks are as large as 256 MiB allow"),
    "attn_implementation": Sets("model.attention", ATTENTION, NO_ATTENTION),
    "flash_attention": Sets("model.attention", {True: "flash_attention_2", False: None, "auto": None}),
    "sdp_attention": Sets("model.attention", {True: "sdpa", False: None}),
    "eager_attention": Sets("model.attention", {True: "eager", False: None}),
    **keys("xformers_attention flex_attention sage_attention s2_attention", Refused(NO_ATTENTION)),
    **keys(
        "gradient_checkpointing",
        Sets(
            "model.gradient_checkpointing",
            {True: True, False: False, "offload": True, "offload_disk": True, "unsloth": True},
        ),
    ),
    "gradient_checkpointing_kwargs": Ignored("each block of the model is recomputed"),
    **keys("activation_offloading layer_offloading", Refused("activations stay where they are computed; leave it out")),
    # The data.
    "datasets": Part("datasets", "data.name", "or `data.files`, and `task`"),
    "test_datasets": Part("test_datasets", "data.evaluation_split", "or `data.evaluation_files`"),
    "pretraining_dataset": Part("pretraining", "data.name", "and `task: causal-lm`"),
    "val_set_size": Part("validation", "data.evaluation_fraction", "a number from 1 is rows: `evaluation.samples`"),
    "sequence_len": Sets("data.max_length"),
    "excess_length_strategy": Sets(
        "data.long_texts",
        {"drop": "drop", "truncate": "truncate"},
        "data.long_texts knows truncate, split and drop; choose one",
    ),
    **keys("eval_sequence_len min_sample_len max_prompt_len", Refused("data.max_length is for all rows; leave it out")),
    "tokens": Part("tokens", "model.added_tokens", "without an adapter"),
    "chat_template": Part("own_template", "chat.template", "`alpaca`; the tokenizer's own is used without it"),
    "chat_template_jinja": Part("template", "chat.template"),
    "default_system_message": Refused("a column `system` beside the messages is the first message; write it there"),
    "chat_template_kwargs": Refused(
        "a template gets no further arguments; write them into a file for chat.template", (None, {})
    ),
    "train_on_inputs": Refused("in a chat only the assistant's turns are learned; for all tokens use causal-lm"),
    "sample_packing": Sets("batch.packing", SWITCH),
    **keys(
        "eval_sample_packing sample_packing_eff_est max_packed_sequence_len sample_packing_group_size "
        "sample_packing_bin_size sample_packing_sequentially multipack_real_batches pretrain_multipack_attn "
        "batch_flattening pretrain_multipack_buffer_size sample_packing_mp_start_method "
        "pretraining_sample_concatenation",
        Ignored("a packed row holds whole texts, each on its own"),
    ),
    **keys("pad_to_sequence_len group_by_length pad_to_multiple_of", Ignored(NO_PADDING)),
    **keys(
        "dataset_prepared_path dataset_keep_in_memory skip_prepare_dataset remove_unused_columns "
        "push_dataset_to_hub is_preprocess",
        Ignored(CACHED),
    ),
    **keys(
        "dataset_processes dataset_num_proc num_dataset_shards_to_save shuffle_merged_datasets "
        "shuffle_before_merging_datasets",
        Ignored("rows are shuffled each epoch, by the seed"),
    ),
    **keys("dataset_shard_num dataset_shard_idx", Refused("all rows are used; cut the file beforehand")),
    "dataset_exact_deduplication": Refused("rows are taken as they are; drop repeated ones beforehand"),
    **keys("streaming preprocess_iterable", Refused(NO_STREAM)),
    "curriculum_sampling": Refused("rows are shuffled each epoch, by the seed; leave it out"),
    **keys("dataloader_num_workers", Sets("data.workers")),
    **keys("dataloader_pin_memory dataloader_prefetch_factor dataloader_drop_last", Ignored(LOADERS)),
    # The adapter.
    "adapter": Part("adapter", "lora.rank", "`qlora` is also `quantization.bits: 4`"),
    "lora_r": Part("rank", "lora.rank"),
    "lora_alpha": Part("alpha", "lora.alpha"),
    "lora_dropout": Part("dropout", "lora.dropout"),
    "lora_target_modules": Part("targets", "lora.target_modules"),
    "lora_target_linear": Part("all_linear", "lora.target_modules", "all-linear"),
    "peft_use_dora": Part("dora", "lora.dora"),
    "peft_use_rslora": Part("rslora", "lora.rank_stabilized"),
    "load_in_4bit": Part("4bit", "quantization.bits", "4"),
    "load_in_8bit": Part("8bit", "quantization.bits", "8"),
    "bnb_config_kwargs.bnb_4bit_use_double_quant": Part("double", "quantization.double_quantization"),
    "bnb_config_kwargs": Refused("4 bits are NF4; see the settings of the section quantization", (None, {})),
    "lora_model_dir": Sets("lora.adapter"),
    **keys(
        "lora_modules_to_save lora_target_parameters lora_fan_in_fan_out peft_layers_to_transform peft_layers_pattern "
        "lora_rank_pattern lora_alpha_pattern peft_layer_replication peft_init_lora_weights "
        "peft_trainable_token_indices loraplus_lr_ratio loraplus_lr_embedding relora peft lora_on_cpu gptq "
        "gptq_groupsize gptq_model_v1 quantize_moe_experts",
        Refused(LORA_ALONE, (None, False, [], {})),
    ),
    **keys("merge_lora", Ignored("`distrain merge` merges an adapter into its base model")),
    # The batch.
    "micro_batch_size": Counts("rows"),
    "batch_size": Counts("step"),
    "gradient_accumulation_steps": Counts("accumulation"),
    "eval_batch_size": Ignored("an evaluation takes micro-batches as large as training does"),
    "auto_find_batch_size": Refused("batch.tokens: auto takes what memory has room for; write that"),
    # The optimizer and its schedule.
    "learning_rate": Sets("optimizer.learning_rate"),
    "weight_decay": Sets("optimizer.weight_decay"),
    "optimizer": Sets("optimizer.name", OPTIMIZERS, NO_OPTIMIZER),
    "adam_beta1": Part("beta1", "optimizer.betas"),
    "adam_beta2": Part("beta2", "optimizer.betas"),
    "adam_epsilon": Sets("optimizer.epsilon"),
    "adam_eps": Sets("optimizer.epsilon"),
    "max_grad_norm": Sets("optimizer.max_grad_norm"),
    **keys(
        "optim_args optim_target_modules torchdistx_path adam_beta3 adam_epsilon2",
        Refused("the settings of the section optimizer are all there are", (None, {}, [])),
    ),
    **keys("embedding_lr embedding_lr_scale lr_groups", Refused(ONE_RATE, (None, []))),
    "lr_scheduler": Sets("schedule.kind", SCHEDULES, NO_SCHEDULE),
    **keys(
        " eta_min cosine_constant_lr_ratio lr_div_factor lr_quadratic_warmup "
        "jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps",
        Refused("a schedule rises linearly and ends at zero; leave it out", (None, {})),
    ),
    "lr_scheduler_kwargs": Part("schedule", "schedule.min_learning_rate", "`min_lr`, and `num_decay_steps`"),
    "cosine_min_lr_ratio": Part("least", "schedule.min_learning_rate", "times the learning rate"),
    "warmup_ratio": Part("warmup_ratio", "schedule.warmup_fraction"),
    "warmup_steps": Part("warmup_steps", "schedule.warmup_steps"),
    "num_epochs": Part("epochs", "schedule.epochs"),
    "max_steps": Part("max_steps", "schedule.max_steps"),
    **keys("neftune_noise_alpha noisy_embedding_alpha", Sets("model.embedding_noise")),
    **keys("bf16 bfloat16", Sets("precision", {True: "bf16", False: None, "auto": "bf16", "full": "bf16"})),
    **keys("fp16 float16", Sets("precision", {True: "fp16", False: None})),
    "float32": Sets("precision", {True: "fp32", False: None}),
    **keys("fp8 fp8_config", Refused("precision knows fp32, bf16 and fp16; choose bf16")),
    "tf32": Ignored(NO_TF32),
    "torch_compile": Sets("model.compile", {**SWITCH, "auto": None}),
    **keys(
        "torch_compile_backend torch_compile_mode torch_compile_options", Refused("model.compile: true is all there is")
    ),
    "seed": Sets("seed"),
    # How it is spread.
    "deepspeed": Part("deepspeed", "strategy.config", "the path of the file"),
    "deepcompile": Refused("it is not tested with distrain's checkpoints; see model.compile"),
    "fsdp": Part("fsdp", "strategy.kind"),
    **keys("fsdp_version fsdp_limit_all_gathers", Ignored("fsdp is always torch's fully_shard")),
    "fsdp_final_state_dict_type": Ignored(OWN_CHECKPOINTS),
    **keys(
        "sequence_parallel_degree context_parallel_size tensor_parallel_size dp_shard_size dp_replicate_size "
        "ring_attn_func heads_k_stride expert_parallel_size",
        Refused(NO_SPLIT_MODEL, (None, 1)),
    ),
    **keys(
        "ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters local_rank world_size "
        "accelerator_config use_ray ray_run_name ray_num_workers resources_per_worker",
        Ignored(LAUNCHES),
    ),
    # When it evaluates, saves and tells.
    **keys("eval_strategy evaluation_strategy", Part("eval_strategy", "evaluation.every_steps")),
    "eval_steps": Part("eval_steps", "evaluation.every_steps"),
    "evals_per_epoch": Part("evals_per_epoch", "evaluation.every_steps"),
    "save_strategy": Part("save_strategy", "checkpoint.every_steps"),
    "save_steps": Part("save_steps", "checkpoint.every_steps"),
    "saves_per_epoch": Part("saves_per_epoch", "checkpoint.every_steps"),
    "save_total_limit": Part("keep", "checkpoint.keep"),
    **keys("save_safetensors save_first_step", Ignored(OWN_CHECKPOINTS)),
    "save_only_model": Refused(OWN_CHECKPOINTS),
    "early_stopping_patience": Sets("evaluation.patience"),
    "metric_for_best_model": Part("metric", "evaluation.metric"),
    "greater_is_better": Sets("evaluation.greater_is_better", {**SWITCH}),
    "load_best_model_at_end": Refused("final/ is the last model and checkpoint-best/ the best; take the one you want"),
    **keys(
        "do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset eval_table_size eval_max_new_tokens",
        Refused("loss, perplexity and token accuracy are measured; leave it out", (None, False, 0)),
    ),
    **keys("generate_samples num_generation_samples", Ignored("chat.samples held-out prompts are answered at the end")),
    **keys("logging_steps include_tokens_per_second include_tkps profiler_steps debug", Ignored(SHOWN)),
    **keys(
        "loss_watchdog_threshold loss_watchdog_patience",
        Ignored("optimizer.nonfinite_limit ends a run whose gradients are not finite"),
    ),
    "gc_steps": Ignored(ALWAYS),
    **keys(
        "resume_from_checkpoint auto_resume_from_checkpoints",
        Ignored("`distrain train --resume` continues the run in output_dir"),
    ),
    "output_dir": Sets("output_dir"),
    "use_wandb": Part("wandb", "tracking.trackers", "wandb"),
    "wandb_project": Part("wandb_project", "tracking.project", "with `tracking.trackers: wandb`"),
    **keys("wandb_name wandb_run_name", Sets("tracking.name")),
    **keys(
        "wandb_run_id wandb_mode wandb_entity wandb_watch wandb_log_model",
        Refused("W&B reads it from its own environment variables; set it there", (None, "", False)),
    ),
    "use_mlflow": Part("mlflow", "tracking.trackers", "mlflow"),
    "mlflow_tracking_uri": Refused("MLflow reads it from the environment variable MLFLOW_TRACKING_URI; set it there"),
    "mlflow_experiment_name": Part("mlflow_experiment", "tracking.project", "with `tracking.trackers: mlflow`"),
    "mlflow_run_name": Sets("tracking.name"),
    "use_tensorboard": Part("tensorboard", "tracking.trackers", "tensorboard"),
    **keys(
        "use_comet comet_api_key comet_workspace use_swanlab swanlab_project swanlab_experiment_name "
        "swanlab_description swanlab_mode comet_project_name use_trackio trackio_project_name trackio_run_name",
        Refused("trackers are tensorboard, wandb and mlflow"),
    ),
    **keys("hub_model_id", Part("repo", "hub.repo")),
    "hub_strategy": Ignored("hub.when is end or best"),
    "hub_revision": Refused("the model goes to the main branch; leave it out"),
    "hf_use_auth_token": Refused(NO_TOKEN),
    # Answers that are compared or judged.
    "rl": Part("rl", "preference.method", "and `task: preference`"),
    **keys("dpo_beta rl_beta orpo_alpha", Sets("preference.beta")),
    "kto_desirable_weight": Sets("preference.desirable_weight"),
    "kto_undesirable_weight": Sets("preference.undesirable_weight"),
    # What is not here.
    **keys("reward_model process_reward_model trl vllm simpo_gamma cpo_alpha", Refused(NO_PREFERENCES)),
    **keys(
        "qat quantization", Refused("trained weights are fp32; quantization.bits holds a frozen base in fewer bits")
    ),
    "use_pose": Refused("positions are those of the text; leave it out"),
    "lisa_n_layers": Refused("model.freeze is the same for the whole run; leave it out"),
}

AXOLOTL = Dialect(
    "axolotl",
    AXOLOTL_KEYS,
    {
        "optimizer.weight_decay": 0.0,
        "schedule.kind": "cosine",
        "schedule.epochs": 1,
        "data.max_length": 512,
        "checkpoint.keep": 4,
        "data.evaluation_fraction": 0.0,
        "precision": "bf16",
    },
    rows=1,
)
