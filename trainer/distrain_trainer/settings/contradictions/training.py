"""Settings that contradict each other: what a step is, and what it trains."""

from distrain_trainer.settings.fields import Fields
from distrain_trainer.settings.sections import Hub
from distrain_trainer.settings.tasks import WRITTEN


def training_contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Those of what a step is and what it trains."""
    schedule, batch = s.schedule, s.batch
    decay = (schedule.decay, schedule.decay_fraction, schedule.decay_steps)
    return [
        (
            s.evaluation.generations == 0 and s.evaluation.metric in WRITTEN,
            f"evaluation.metric is {s.evaluation.metric}, which is measured on generated texts, but "
            "evaluation.generations is 0; raise it or choose another metric",
        ),
        (
            s.evaluation.metrics is not None and not s.facts.labelled,
            f"evaluation.metrics is for tasks with labels but task is {s.task}; remove it",
        ),
        (
            s.loss.label_smoothing > 0 and s.facts.numbers,
            f"loss.label_smoothing is for classes but task {s.task} learns numbers; remove it",
        ),
        (
            s.loss.class_weights is not None and not s.facts.classes,
            f"loss.class_weights is for tasks with classes but task is {s.task}; remove it",
        ),
        (
            schedule.warmup_steps is not None and schedule.warmup_fraction > 0,
            "schedule.warmup_steps and schedule.warmup_fraction are both set; keep one of them",
        ),
        (
            schedule.min_learning_rate > 0 and schedule.kind == "constant",
            "schedule.min_learning_rate is set but schedule.kind is constant, which never falls; choose another kind "
            "or remove it",
        ),
        (
            schedule.min_learning_rate >= s.optimizer.learning_rate,
            f"schedule.min_learning_rate is {schedule.min_learning_rate:g} but optimizer.learning_rate, from where it "
            f"falls, is {s.optimizer.learning_rate:g}; lower it",
        ),
        (
            schedule.kind != "wsd" and decay != ("linear", 0.1, None),
            f"schedule.decay and its length are for wsd but schedule.kind is {schedule.kind}; remove them or set it to "
            "wsd",
        ),
        (
            schedule.decay_steps is not None and decay[1] != 0.1,
            "schedule.decay_steps and schedule.decay_fraction are both set; keep one of them",
        ),
        (
            s.optimizer.name not in ("sgd", "muon") and bool(s.optimizer.momentum),
            f"optimizer.momentum is for sgd and muon; use optimizer.betas with {s.optimizer.name}",
        ),
        (
            batch.packing and not s.facts.causal,
            f"batch.packing is for causal-lm and chat but task is {s.task}; set batch.packing to false",
        ),
        (
            s.model.chunked_loss is True and not s.facts.causal,
            f"model.chunked_loss is for causal-lm and chat but task is {s.task}; remove it",
        ),
        (
            s.model.attention == "flash_attention_2" and s.precision == "fp32",
            "model.attention is flash_attention_2, which computes in bf16 or fp16, but precision is fp32; set "
            "precision to bf16 or model.attention to sdpa",
        ),
        (
            s.model.added_tokens is not None and s.lora.rank is not None,
            "model.added_tokens gives the model new embeddings, which lora.rank freezes; train all weights, or add the "
            "tokens to a copy of the model and train that first",
        ),
        (
            s.model.freeze is not None and s.lora.rank is not None,
            "model.freeze is set but lora.rank freezes the whole model already; remove one of them",
        ),
        (
            s.hub.repo is None and s.hub != Hub(),
            "hub has settings but hub.repo is not set, which turns the push on; set it",
        ),
    ]
