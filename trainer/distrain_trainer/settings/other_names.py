"""What other tools call a setting: transformers' TrainingArguments, Accelerate, DeepSpeed, peft, and plain habit."""

OTHER_NAMES = {
    other: setting
    for setting, others in {
        "model.name": "model_name model_name_or_path pretrained_model_name_or_path base_model checkpoint model_id",
        "model.attention": "attn_implementation",
        "model.compile": "torch_compile",
        "model.embedding_noise": "neftune_noise_alpha neftune_alpha noisy_embedding_alpha neftune",
        "model.added_tokens": "new_tokens additional_special_tokens add_tokens",
        "data.name": "dataset dataset_name",
        "data.config": "dataset_config dataset_config_name subset",
        "data.files": "train_file train_files data_files data_path train_data file",
        "data.evaluation_files": "validation_file eval_file eval_files test_file validation_files",
        "data.text_column": "text_column_name text_field dataset_text_field",
        "data.label_column": "label_column_name",
        "data.max_length": "max_seq_length max_seq_len max_sequence_length block_size cutoff_len seq_len "
        "model_max_length",
        "data.workers": "dataloader_num_workers num_workers",
        "data.evaluation_fraction": "validation_split_percentage test_size val_size",
        "batch.samples": "bs batch_size per_device_train_batch_size per_device_batch_size train_batch_size "
        "micro_batch_size train_micro_batch_size_per_gpu",
        "optimizer.name": "optim",
        "optimizer.learning_rate": "lr",
        "optimizer.weight_decay": "wd",
        "optimizer.layer_decay": "llrd layerwise_lr_decay layer_wise_lr_decay",
        "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
        "optimizer.epsilon": "adam_epsilon eps adam_eps",
        "optimizer.max_grad_norm": "gradient_clipping clip_grad_norm grad_clip",
        "schedule.kind": "lr_scheduler_type lr_scheduler scheduler",
        "schedule.min_learning_rate": "min_lr lr_min minimum_learning_rate eta_min",
        "schedule.decay_steps": "num_decay_steps lr_decay_steps",
        "schedule.epochs": "num_epochs num_train_epochs n_epochs epoch",
        "schedule.max_steps": "steps max_train_steps num_steps num_train_steps",
        "schedule.warmup_fraction": "warmup_ratio warmup",
        "schedule.warmup_steps": "num_warmup_steps",
        "precision": "bf16 fp16 mixed_precision amp torch_dtype",
        "strategy.config": "deepspeed deepspeed_config config_file",
        "strategy.kind": "fsdp zero_stage ddp",
        "ema.decay": "ema_decay use_ema",
        "lora.rank": "lora_r r",
        "lora.alpha": "lora_alpha",
        "lora.dropout": "lora_dropout",
        "lora.target_modules": "lora_target_modules lora_target",
        "quantization.bits": "load_in_4bit load_in_8bit quantization_bit",
        "evaluation.every_steps": "eval_steps eval_interval",
        "evaluation.at_start": "eval_on_start evaluate_first",
        "evaluation.metric": "metric_for_best_model",
        "evaluation.patience": "early_stopping_patience early_stopping",
        "checkpoint.every_steps": "save_steps save_interval checkpointing_steps",
        "checkpoint.keep": "save_total_limit",
        "output_dir": "output out out_dir save_dir outdir",
        "max_hours": "max_time",
    }.items()
    for other in others.split()
}
"""The last part of a name elsewhere, in small letters with underscores -> the setting here."""

ACCUMULATION = ("gradient_accumulation_steps", "accumulation_steps", "grad_accum", "gradient_accumulation")
"""Names of what follows here from `batch.micro_batches` and the number of processes."""
