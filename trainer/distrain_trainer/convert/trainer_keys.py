"""Arguments of transformers' Trainer, of its example scripts and of TRL's SFT (transformers 5, with the names of 4)."""

from distrain_trainer.convert.rules import (
    ALWAYS,
    ATTENTION,
    CACHED,
    CUT,
    FOLDERS,
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

TASKS = (
    ("run_glue", "sequence-classification"),
    ("run_classification", "sequence-classification"),
    ("run_xnli", "sequence-classification"),
    ("run_ner", "token-classification"),
    ("run_clm", "causal-lm"),
    ("run_mlm", "masked-lm"),
    ("run_translation", "sequence-to-sequence"),
    ("run_summarization", "sequence-to-sequence"),
    ("sft", "chat"),
    ("dpo", "preference"),
    ("orpo", "preference"),
    ("kto", "preference"),
)
"""Beginning of a script's name -> task."""
METHODS = ("orpo", "kto")
"""Scripts that are called after the one loss they have."""
GLUE = {
    "cola": ("sentence", None),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence", None),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
"""Task of GLUE -> its columns of texts."""
SCRIPT_DEFAULTS: dict[str, dict[str, object]] = {
    "sequence-classification": {"data.max_length": 128},
    "causal-lm": {"data.evaluation_fraction": 0.05},
    "masked-lm": {"data.evaluation_fraction": 0.05},
    "preference": {"optimizer.learning_rate": 1e-6},
}
"""Task -> what the example script for it does unasked."""

TRAINING: dict[str, Rule] = {
    # The batch.
    **keys("per_device_train_batch_size per_gpu_train_batch_size", Counts("rows")),
    "gradient_accumulation_steps": Counts("accumulation"),
    **keys(
        "per_device_eval_batch_size per_gpu_eval_batch_size eval_accumulation_steps eval_do_concat_batches "
        "batch_eval_metrics eval_use_gather_object",
        Ignored("an evaluation takes micro-batches as large as training does"),
    ),
    "auto_find_batch_size": Refused("batch.tokens: auto takes what memory has room for; write that"),
    "split_batches": Refused("a micro-batch is one process's; divide the batch size by the number of processes"),
    # The optimizer and its schedule.
    "learning_rate": Sets("optimizer.learning_rate"),
    "weight_decay": Sets("optimizer.weight_decay"),
    "adam_beta1": Part("beta1", "optimizer.betas"),
    "adam_beta2": Part("beta2", "optimizer.betas"),
    "adam_epsilon": Sets("optimizer.epsilon"),
    "max_grad_norm": Sets("optimizer.max_grad_norm"),
    "optim": Sets("optimizer.name", OPTIMIZERS, NO_OPTIMIZER),
    "adafactor": Sets("optimizer.name", {True: "adafactor", False: None}),
    **keys("optim_args optim_target_modules", Refused("the settings of the section optimizer are all there are")),
    "lr_scheduler_type": Sets("schedule.kind", SCHEDULES, NO_SCHEDULE),
    "lr_scheduler_kwargs": Part("schedule", "schedule.min_learning_rate", "`min_lr`, and `num_decay_steps`"),
    "warmup_ratio": Part("warmup_ratio", "schedule.warmup_fraction"),
    "warmup_steps": Part("warmup_steps", "schedule.warmup_steps", "a number below 1 is `schedule.warmup_fraction`"),
    "num_train_epochs": Part("epochs", "schedule.epochs"),
    "max_steps": Part("max_steps", "schedule.max_steps"),
    "label_smoothing_factor": Sets("loss.label_smoothing"),
    "neftune_noise_alpha": Sets("model.embedding_noise"),
    "average_tokens_across_devices": Ignored("a step's loss is always the mean over all its targets"),
    # How it computes.
    "bf16": Sets("precision", {True: "bf16", False: None}),
    "fp16": Sets("precision", {True: "fp16", False: None}),
    **keys(
        "bf16_full_eval fp16_full_eval fp16_opt_level fp16_backend half_precision_backend",
        Ignored("precision says it for training and evaluation"),
    ),
    "tf32": Ignored(NO_TF32),
    **keys("gradient_checkpointing activation_checkpointing", Sets("model.gradient_checkpointing", SWITCH)),
    **keys(
        "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
        Ignored("each block of the model is recomputed"),
    ),
    "activation_offloading": Refused("activations stay where they are computed; set model.gradient_checkpointing"),
    "torch_compile": Sets("model.compile", SWITCH),
    **keys("torch_compile_backend torch_compile_mode torchdynamo", Refused("model.compile: true is all there is")),
    **keys("use_liger_kernel liger_kernel_config", Refused(OWN_KERNELS)),
    "torch_empty_cache_steps": Ignored("memory is planned beforehand: `distrain plan`"),
    "full_determinism": Sets("deterministic", SWITCH),
    "seed": Sets("seed"),
    "data_seed": Refused("one seed is behind everything that is random; leave it out"),
    **keys("use_cpu no_cuda use_mps_device", Ignored("the GPU is used where there is one")),
    # How it is spread.
    "fsdp": Sets(
        "strategy.kind",
        {
            True: "fsdp",
            False: None,
            "": None,
            "full_shard": "fsdp",
            "full_shard auto_wrap": "fsdp",
            "auto_wrap full_shard": "fsdp",
            "shard_grad_op": "zero2",
            "shard_grad_op auto_wrap": "zero2",
        },
        "fsdp shards parameters, gradients and state; zero3 can keep them in host memory; choose one as strategy.kind",
    ),
    **keys(
        "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout local_rank save_on_each_node dispatch_batches "
        "accelerator_config world_size sharded_ddp log_on_each_node ray_scope deepspeed_plugin n_gpu _n_gpu",
        Ignored("distrain decides it by strategy.kind and by what the processes find"),
    ),
    **keys(
        "parallelism_config mp_parameters tpu_num_cores", Refused("the batch is split, layers are not; leave it out")
    ),
    "deepspeed": Part("deepspeed", "strategy.config", "the path of the file"),
    # When it evaluates, saves and tells.
    **keys("eval_strategy evaluation_strategy", Part("eval_strategy", "evaluation.every_steps")),
    "evaluate_during_training": Part("eval_strategy", "evaluation.every_steps"),
    "eval_steps": Part("eval_steps", "evaluation.every_steps"),
    **keys(
        "eval_delay eval_on_start", Refused("evaluations come at the end of each epoch, or every N steps", (0, False))
    ),
    **keys("prediction_loss_only include_inputs_for_metrics include_for_metrics label_names", Ignored(ALWAYS)),
    "metric_for_best_model": Part("metric", "evaluation.metric"),
    "greater_is_better": Sets("evaluation.greater_is_better", {**SWITCH}),
    "load_best_model_at_end": Refused("final/ is the last model and checkpoint-best/ the best; take the one you want"),
    "early_stopping_patience": Sets("evaluation.patience"),
    "early_stopping_threshold": Refused("any better value counts; leave it out", (None, False, 0)),
    "save_strategy": Part("save_strategy", "checkpoint.every_steps"),
    "save_steps": Part("save_steps", "checkpoint.every_steps"),
    "save_total_limit": Part("keep", "checkpoint.keep"),
    "save_only_model": Refused(OWN_CHECKPOINTS),
    **keys("save_safetensors enable_jit_checkpoint", Ignored(OWN_CHECKPOINTS)),
    **keys(
        "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint",
        Ignored("`distrain train --resume` continues the run in output_dir"),
    ),
    "overwrite_output_dir": Ignored("`distrain train --overwrite` replaces the run in output_dir"),
    "output_dir": Sets("output_dir"),
    **keys("do_train do_eval do_predict", Ignored("`distrain train` does both, `distrain predict` the last")),
    **keys(
        "logging_strategy logging_steps logging_first_step logging_nan_inf_filter logging_dir disable_tqdm past_index "
        "include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics",
        Ignored(SHOWN),
    ),
    "log_level": Sets(
        "log_level",
        {"passive": None, "debug": "debug", "info": "info", "warning": "warning", "error": "error"},
        "log_level knows debug, info, warning and error; choose one",
    ),
    **keys("log_level_replica debug verbose", Ignored(SHOWN)),
    "report_to": Part("report_to", "tracking.trackers"),
    "run_name": Sets("tracking.name"),
    "project": Part("project", "tracking.project"),
    **keys(
        "trackio_space_id trackio_bucket_id trackio_static_space_id", Refused("trackers are tensorboard, wandb, mlflow")
    ),
    # The loaders.
    "dataloader_num_workers": Sets("data.workers"),
    **keys(
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_in_order "
        "dataloader_multiprocessing_context",
        Ignored(LOADERS),
    ),
    "dataloader_drop_last": Ignored("an epoch takes each row once; its last step may be smaller"),
    **keys("group_by_length length_column_name remove_unused_columns", Ignored(NO_PADDING)),
    "train_sampling_strategy": Ignored(NO_PADDING),
    # The Hub.
    "push_to_hub": Part("push", "hub.repo"),
    **keys("hub_model_id push_to_hub_model_id", Part("repo", "hub.repo", "with `push_to_hub`")),
    "hub_private_repo": Part("private", "hub.private"),
    **keys("hub_strategy hub_always_push", Ignored("hub.when is end or best")),
    "hub_revision": Refused("the model goes to the main branch; leave it out"),
    **keys("hub_token push_to_hub_token token use_auth_token", Refused(NO_TOKEN)),
    "push_to_hub_organization": Refused("hub.repo is owner/name; write the owner there"),
    **keys("use_ipex jit_mode_eval xpu_backend tpu_metrics_debug use_cache", Ignored("training does without")),
}

SCRIPTS: dict[str, Rule] = {
    "model_name_or_path": Sets("model.name"),
    "model_revision": Part("revision", "model.revision"),
    **keys("dtype torch_dtype", Part("dtype", "model.dtype", "under an adapter")),
    "attn_implementation": Sets("model.attention", ATTENTION, NO_ATTENTION),
    **keys("trust_remote_code", Refused(NO_FOREIGN_CODE)),
    "cache_dir": Refused(FOLDERS),
    **keys("config_name tokenizer_name", Refused(NO_TOKENIZER)),
    **keys("model_type config_overrides", Refused(NO_SCRATCH)),
    **keys(
        "use_fast_tokenizer low_cpu_mem_usage ignore_mismatched_sizes with_tracking",
        Ignored("models are loaded in the one way that fits the strategy"),
    ),
    "task_name": Part("glue", "data.config", "of nyu-mll/glue, with its columns"),
    "dataset_name": Part("dataset", "data.name"),
    **keys("dataset_config_name dataset_config", Sets("data.config")),
    **keys("train_file train_files dataset_train_file", Part("train_file", "data.files")),
    **keys("validation_file eval_file", Part("validation_file", "data.evaluation_files")),
    "test_file": Ignored("`distrain evaluate RUN FILE` and `distrain predict RUN FILE` take it"),
    **keys("train_split_name dataset_train_split", Part("train_split", "data.train_split")),
    **keys("validation_split_name dataset_test_split", Part("evaluation_split", "data.evaluation_split")),
    "test_split_name": Ignored("`distrain evaluate RUN --data.evaluation_split NAME` takes it"),
    "validation_split_percentage": Part("percentage", "data.evaluation_fraction", "a hundredth of it"),
    **keys("test_split_size", Sets("data.evaluation_fraction")),
    **keys("text_column_name text_column_names", Sets("data.text_column")),
    "text_column_delimiter": Refused("one column is read as the text; join them beforehand", (None, " ")),
    "label_column_name": Sets("data.label_column"),
    **keys("remove_splits remove_columns", Ignored("splits and columns that are not named are not read")),
    "do_regression": Part("regression", "task", "regression"),
    "metric_name": Part("metrics", "evaluation.metrics"),
    **keys("max_seq_length max_length block_size", Part("length", "data.max_length")),
    **keys("pad_to_max_length pad_to_multiple_of", Ignored(NO_PADDING)),
    "line_by_line": Part("lines", "data.text_unit", "line"),
    "mlm_probability": Sets("data.mask_fraction"),
    **keys("keep_linebreaks", Ignored("texts are read as they are")),
    **keys("max_train_samples", Refused(CUT)),
    "max_eval_samples": Sets("evaluation.samples"),
    "max_predict_samples": Ignored("`distrain predict RUN FILE` takes a file of any length"),
    **keys("streaming dataset_streaming", Refused(NO_STREAM)),
    **keys("overwrite_cache", Ignored(CACHED)),
    **keys("preprocessing_num_workers dataset_num_proc", Ignored("tokenizers use several cores by themselves")),
    **keys("shuffle_train_dataset shuffle_seed shuffle_dataset", Ignored("rows are shuffled each epoch, by the seed")),
    "return_entity_level_metrics": Ignored(
        "precision, recall and f1 are over all entities, f1_macro is the mean over their types"
    ),
    "label_all_tokens": Refused("the first token of a word carries its label; leave it out"),
}

SFT: dict[str, Rule] = {
    "dataset_text_field": Part("text_field", "data.text_column", "and `task: causal-lm`"),
    "packing": Sets("batch.packing", SWITCH),
    **keys("packing_strategy padding_free eval_packing", Ignored("a packed row holds whole texts, each on its own")),
    "completion_only_loss": Refused(
        "in a chat only the assistant's turns are learned; for all tokens use causal-lm", (None, True)
    ),
    "assistant_only_loss": Part("assistant_only", "task", "chat, which learns the assistant's turns alone"),
    "chat_template_path": Sets("chat.template"),
    "truncation_mode": Refused("a long conversation loses whole turns at its end; leave it out", (None, "keep_start")),
    "loss_type": Sets(
        "preference.method",
        {"nll": None, "chunked_nll": None, "sigmoid": "dpo", "ipo": "ipo", "kto": "kto"},
        "preference.method knows dpo, ipo, orpo and kto, and all other tasks have one loss; choose one of them",
    ),
    "beta": Sets("preference.beta"),
    "desirable_weight": Sets("preference.desirable_weight"),
    "undesirable_weight": Sets("preference.undesirable_weight"),
    "precompute_ref_log_probs": Ignored("the reference's log-probabilities are always computed once, before training"),
    **keys("eos_token pad_token", Refused("the tokenizer's own are used; set them there", (None,))),
    **keys("model_init_kwargs dataset_kwargs", Refused("write what is in it as settings", (None, {}, "{}"))),
    "router_aux_loss_coef": Ignored("the model's own configuration says it"),
    "use_peft": Part("adapter", "lora.rank", "turns the keys of LoRA on"),
    "lora_r": Part("rank", "lora.rank"),
    "lora_alpha": Part("alpha", "lora.alpha"),
    "lora_dropout": Part("dropout", "lora.dropout"),
    "lora_target_modules": Part("targets", "lora.target_modules"),
    **keys("lora_target_parameters lora_modules_to_save", Refused(LORA_ALONE, (None, []))),
    "lora_task_type": Ignored("task says it"),
    "use_rslora": Part("rslora", "lora.rank_stabilized"),
    "use_dora": Part("dora", "lora.dora"),
    "load_in_4bit": Part("4bit", "quantization.bits", "4"),
    "load_in_8bit": Part("8bit", "quantization.bits", "8"),
    "bnb_4bit_quant_type": Refused("4 bits are NF4", (None, "nf4")),
    "use_bnb_nested_quant": Part("double", "quantization.double_quantization"),
    "bnb_4bit_quant_storage": Ignored("weights are stored as bytes"),
}

LAUNCHER: dict[str, Rule] = {
    **keys("nproc_per_node num_gpus", Counts("processes_per_node")),
    **keys("nnodes num_nodes num_machines", Counts("nodes")),
    "num_processes": Counts("processes"),
    "mixed_precision": Sets("precision", {"no": "fp32", False: "fp32", "bf16": "bf16", "fp16": "fp16"}, "choose bf16"),
    "config_file": Part("accelerate", "strategy.kind", "and what else the file says"),
    "use_deepspeed": Refused("set strategy.kind to zero1, zero2 or zero3"),
    "zero_stage": Sets("strategy.kind", {1: "zero1", 2: "zero2", 3: "zero3"}, "the stages of ZeRO are 1, 2 and 3"),
    "use_fsdp": Sets("strategy.kind", {True: "fsdp", False: None}),
    "deepspeed_config_file": Part("deepspeed", "strategy.config"),
    **keys(
        "node_rank machine_rank master_addr master_port main_process_ip main_process_port rdzv_backend rdzv_endpoint "
        "rdzv_id rdzv_conf standalone max_restarts monitor_interval hostfile include exclude multi_gpu cpu gpu_ids "
        "num_cpu_threads_per_process dynamo_backend local_ranks_filter redirects tee log_dir same_network launcher "
        "no_python module",
        Ignored(LAUNCHES),
    ),
}
"""Options of torchrun, `accelerate launch` and deepspeed, which stand before the script."""

TRAINER = Dialect("transformers' Trainer", TRAINING | SCRIPTS | SFT, {"optimizer.weight_decay": 0.0}, rows=8)
TRL = Dialect(
    "TRL's SFT",
    TRAINING | SCRIPTS | SFT,
    {
        "optimizer.weight_decay": 0.0,
        "optimizer.learning_rate": 2e-5,
        "model.gradient_checkpointing": True,
        "precision": "bf16",
        "data.max_length": 1024,
    },
    rows=8,
)
