"""All settings of a run, and which of them contradict each other. The one source of truth."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from distrain_trainer.console import Level
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.sections import (
    EIGHT_BITS,
    SHARDED,
    ZERO,
    Batch,
    Chat,
    Checkpoint,
    Data,
    Elastic,
    Ema,
    Evaluation,
    Hub,
    Lora,
    Loss,
    Model,
    Optimizer,
    Preference,
    Quantization,
    Schedule,
    Section,
    Strategy,
    Tracking,
)
from distrain_trainer.settings.tasks import FACTS, Task, TaskFacts


class Settings(Section):
    """All settings of a run."""

    task: Task = "sequence-classification"
    """What the model learns."""
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass. Weights and optimizer stay fp32. fp16 needs a GPU."""
    strategy: Strategy = Strategy()
    lora: Lora = Lora()
    quantization: Quantization = Quantization()
    chat: Chat = Chat()
    preference: Preference = Preference()
    evaluation: Evaluation = Evaluation()
    ema: Ema = Ema()
    checkpoint: Checkpoint = Checkpoint()
    hub: Hub = Hub()
    elastic: Elastic = Elastic()
    tracking: Tracking = Tracking()
    seed: int = Field(42, ge=0, lt=2**31)
    """Seed of data order, dropout, masks and new layers."""
    deterministic: bool = False
    """Deterministic kernels only: slower, and what bit-exact resumes on a GPU need. A CPU is always exact."""
    max_hours: float | None = Field(None, gt=0)
    """Hours of training over all attempts after which the run writes a checkpoint and leaves with 71."""
    log_level: Level = "info"
    """The least important messages that are shown."""
    run_id: str | None = None
    """Name of the run. A folder that carries the same name is continued without being asked."""
    output_dir: str = "out"
    """Folder of everything that the run leaves."""

    @property
    def facts(self) -> TaskFacts:
        """What is known of the task."""
        return FACTS[self.task]

    def row_tokens(self, longest: int) -> int:
        """Padded tokens of a row as long as may be. longest: `data.max_length`, decided."""
        if self.facts.compares:
            return 2 * longest
        return longest + (self.data.max_target_length if self.facts.writes else 0)

    def longest_in(self, tokens: int) -> int:
        """The most that `data.max_length` may be where a micro-batch has room for some tokens."""
        return tokens // 2 if self.facts.compares else tokens - self.row_tokens(0)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        for contradiction, sentence in contradictions(self):
            if contradiction:
                raise ValueError(sentence)
        return self


WRITTEN = ("rouge1", "rouge2", "rougeL", "exact_match")
"""Metrics of texts that the model writes."""


def contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Combinations that cannot be meant, each with the sentence that says what to change."""
    return [
        *adapter_contradictions(s),
        *data_contradictions(s),
        *chat_contradictions(s),
        *training_contradictions(s),
        *strategy_contradictions(s),
    ]


def data_contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Those of where texts come from, and how they become rows."""
    data, batch = s.data, s.batch
    return [
        (
            data.name is not None and data.files is not None,
            "data.name and data.files are both set; keep one of them",
        ),
        (
            data.mix is not None and any((data.name, data.files, data.evaluation_files, data.revision, data.config)),
            "data.mix names the data sets, so data.name, data.files, data.evaluation_files, data.revision and "
            "data.config cannot be set beside it; remove them",
        ),
        (
            data.mix is not None and s.facts.holds == "words",
            f"data.mix is not for {s.task}, whose rows are parts of texts; join the files instead",
        ),
        (
            data.evaluation_files is not None and data.files is None,
            "data.evaluation_files needs data.files; set data.files, or choose data.evaluation_split",
        ),
        (
            data.evaluation_files is not None and data.evaluation_split is not None,
            "data.evaluation_files and data.evaluation_split are both set; keep one of them",
        ),
        (
            data.evaluation_split is not None and data.evaluation_split == data.train_split,
            f"data.evaluation_split and data.train_split are both {data.train_split}; evaluate on rows that are not "
            "trained on",
        ),
        (
            s.facts.labelled and data.text_column is not None and data.text_column == data.label_column,
            f"data.text_column and data.label_column are both {data.text_column}; name the column of the labels",
        ),
        (
            data.label_columns is not None and s.task != "multi-label-classification",
            f"data.label_columns is for multi-label-classification but task is {s.task}; set data.label_column to the "
            "one column, or change task",
        ),
        (
            data.label_columns is not None and data.label_column is not None,
            "data.label_column and data.label_columns are both set; keep one of them",
        ),
        (
            data.text_pair_column is not None and s.facts.target != "row",
            f"data.text_pair_column is for tasks that give a text a label but task is {s.task}; remove it or change "
            "task",
        ),
        (
            data.text_pair_column is not None and data.text_pair_column in (data.text_column, data.label_column),
            f"data.text_pair_column is {data.text_pair_column}, which is the column of the first text or of the "
            "labels too; name the column of the second text",
        ),
        (
            data.max_length is not None and batch.tokens != "auto" and data.max_length > batch.tokens,
            f"data.max_length is {data.max_length} but a micro-batch holds batch.tokens = {batch.tokens}; "
            f"raise batch.tokens to at least {data.max_length} or lower data.max_length",
        ),
        (
            s.facts.compares and batch.tokens != "auto" and s.row_tokens(data.max_length or 8) > batch.tokens,
            f"a pair of answers takes twice data.max_length = {data.max_length or 8}, but a micro-batch holds "
            f"batch.tokens = {batch.tokens}; raise batch.tokens or lower data.max_length",
        ),
        (
            s.facts.writes and batch.tokens != "auto" and s.row_tokens(data.max_length or 8) > batch.tokens,
            f"data.max_length and data.max_target_length = {data.max_target_length} are together more than a "
            f"micro-batch holds, batch.tokens = {batch.tokens}; raise batch.tokens or lower them",
        ),
        (
            not s.facts.writes and (data.target_column, data.text_prefix) != (None, None),
            "data.target_column and data.text_prefix are for sequence-to-sequence but task is "
            f"{s.task}; remove them or change task",
        ),
        (
            data.target_column is not None and data.target_column == data.text_column,
            f"data.text_column and data.target_column are both {data.target_column}; name the column of the targets",
        ),
        (
            s.facts.writes and (data.long_texts == "split" or data.stride > 0),
            "data.long_texts=split and data.stride would part a source from its target in sequence-to-sequence; choose "
            "truncate or drop, and no stride",
        ),
        (
            data.max_length is not None and data.stride >= data.max_length // 2,
            f"data.stride is {data.stride}, half of data.max_length = {data.max_length} or more; lower data.stride",
        ),
        (
            s.facts.target == "row" and data.long_texts == "split",
            f"data.long_texts=split gives one text several labels in {s.task}; choose truncate or drop",
        ),
        (
            data.stride > 0 and (data.long_texts or "split") != "split",
            f"data.stride is set but data.long_texts is {data.long_texts}; set data.long_texts to split",
        ),
        (
            data.mask_whole_words and s.task != "masked-lm",
            f"data.mask_whole_words is for masked-lm but task is {s.task}; remove it or change task",
        ),
    ]


def chat_contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Those of conversations."""
    data, batch = s.data, s.batch
    return [
        (
            s.task == "chat" and data.long_texts == "split",
            "data.long_texts=split would cut turns of a conversation in two; choose truncate, which keeps whole turns, "
            "or drop",
        ),
        (
            s.task == "chat" and data.stride > 0,
            "data.stride is for texts that are split, which conversations are not; remove it",
        ),
        (
            s.task == "chat" and data.text_column is not None,
            "data.text_column is not for chat; set chat.messages_column",
        ),
        (
            s.task == "chat" and data.clean,
            "data.clean folds white space, to which chat templates give a meaning; set it to false",
        ),
        (
            s.task != "chat"
            and (s.chat.messages_column, s.chat.tools_column, None if s.facts.compares else s.chat.template)
            != (None, None, None),
            f"the settings of section chat are for task chat but task is {s.task}; remove them or change task",
        ),
        (
            not s.facts.compares and s.preference != Preference(),
            f"the settings of section preference are for task preference but task is {s.task}; remove them or change "
            "task",
        ),
        (
            s.facts.compares and (data.text_column is not None or data.clean),
            "data.text_column and data.clean are not for task preference; set preference.prompt_column, chosen_column "
            "and rejected_column",
        ),
        *preference_contradictions(s.preference, s.evaluation.metric),
        (
            s.facts.compares and (data.long_texts == "split" or data.stride > 0),
            "data.long_texts=split and data.stride would part answers in task preference; choose truncate or drop, and "
            "no stride",
        ),
        (
            s.facts.compares and batch.packing,
            "batch.packing is for causal-lm and chat but task is preference, which compares two texts of a row; set "
            "batch.packing to false",
        ),
        (
            s.facts.compares and s.loss.label_smoothing > 0,
            "loss.label_smoothing is for classes and tokens but task preference compares texts; remove it",
        ),
    ]


def preference_contradictions(preference: Preference, metric: str | None) -> list[tuple[bool, str]]:
    """Those of pairs of answers, and of answers that were judged one by one. metric: `evaluation.metric`."""
    method, judges = preference.method, preference.judges
    judged = (preference.completion_column, preference.label_column)
    weights = (preference.desirable_weight, preference.undesirable_weight)
    return [
        (
            judges and (preference.chosen_column, preference.rejected_column) != (None, None),
            "preference.chosen_column and rejected_column name pairs of answers but preference.method is kto, whose "
            "rows have one; set completion_column and label_column, or choose another method",
        ),
        (
            not judges and judged != (None, None),
            "preference.completion_column and label_column name one answer of a row but preference.method is "
            f"{method}, which compares two; set chosen_column and rejected_column, or the method kto",
        ),
        (
            not judges and weights != (1.0, 1.0),
            "preference.desirable_weight and undesirable_weight are for kto but preference.method is "
            f"{method}; remove them or change the method",
        ),
        (
            judges and metric == "rewards/accuracies",
            "evaluation.metric is rewards/accuracies, which compares two answers, but preference.method is kto, whose "
            "rows have one; choose loss or rewards/margins",
        ),
        (
            not judges and metric == "kl",
            f"evaluation.metric is kl, which is measured by kto, but preference.method is {method}; choose loss or "
            "rewards/accuracies",
        ),
    ]


def training_contradictions(s: Settings) -> list[tuple[bool, str]]:
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


def strategy_contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Those of how a model is spread over processes."""
    strategy = s.strategy
    undecided = strategy.kind is None and strategy.config is not None  # the file says it
    return [
        (
            strategy.offload_optimizer and strategy.kind not in ZERO and not undecided,
            f"strategy.offload_optimizer is for zero1, zero2 and zero3 but strategy.kind is {strategy.kind}; "
            "change one of them",
        ),
        (
            strategy.offload_parameters and strategy.kind != "zero3" and not undecided,
            f"strategy.offload_parameters is for zero3 but strategy.kind is {strategy.kind}; change one of them",
        ),
        (
            s.elastic.min_nodes is None and s.elastic != Elastic(),
            "elastic.wait_minutes is set but elastic.min_nodes is not, which lets a run go on with fewer nodes; set it",
        ),
        (
            strategy.kind in (*ZERO, *SHARDED) and s.precision == "fp16",
            f"strategy.kind is {strategy.kind} and precision fp16, whose small gradients are scaled under single and "
            "ddp only; choose bf16 or fp32, or ddp",
        ),
    ]


def adapter_contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Those of adapters, quantization and 8-bit optimizers."""
    adapter, bits, kind = s.lora.rank is not None, s.quantization.bits, s.strategy.kind
    return [
        (
            not adapter and s.lora != Lora(),
            "lora has settings but lora.rank is not set, which turns the adapter on; set it",
        ),
        (
            bits is None and s.quantization != Quantization(),
            "quantization has settings but quantization.bits is not set, which turns it on; set it to 4 or 8",
        ),
        (
            bits is not None and not adapter,
            "quantization.bits is set but quantized weights cannot be trained; set lora.rank to train an adapter",
        ),
        (
            bits == 8 and s.quantization.compute_dtype is not None,
            "quantization.compute_dtype is for 4 bits; remove it or set quantization.bits to 4",
        ),
        (
            bits == 8 and s.lora.dora,
            "lora.dora conflicts with quantization.bits 8, whose scales peft loses at the second step; choose 4 bits",
        ),
        (
            adapter and ("all-linear" in s.lora.target_modules) != (s.lora.target_modules == ["all-linear"]),
            "lora.target_modules names layers in addition to all-linear, which is all of them; keep one or the other",
        ),
        (
            adapter and not s.lora.target_modules,
            "lora.target_modules is empty; name layers, or all-linear",
        ),
        (
            s.model.dtype is not None and not adapter,
            "model.dtype is for the frozen weights under an adapter; remove it, set lora.rank, or set precision",
        ),
        (
            s.model.dtype not in (None, "fp32") and s.precision == "fp32",
            f"model.dtype is {s.model.dtype} but precision is fp32; set precision to bf16 or fp16, or remove it",
        ),
        (
            bits is not None and kind in SHARDED,
            f"quantization.bits conflicts with strategy.kind {kind}, which cuts weights apart that bitsandbytes has "
            "packed with their scales; choose ddp, zero1 or zero2",
        ),
        (
            s.optimizer.name in EIGHT_BITS and kind not in (None, "single", "ddp"),
            f"optimizer.name {s.optimizer.name} conflicts with strategy.kind {kind}, which cuts apart the blocks that "
            "share a scale; choose adamw, or single or ddp",
        ),
        (
            s.optimizer.name in ("adafactor", "muon") and kind not in (None, "single", "ddp"),
            f"optimizer.name {s.optimizer.name} computes with whole matrices, which strategy.kind {kind} cuts apart; "
            "choose adamw, or single or ddp",
        ),
    ]


MAY_CHANGE = frozenset(
    {
        "schedule.epochs",
        "schedule.max_steps",
        "model.attention",
        "model.chunked_loss",
        "model.gradient_checkpointing",
        "model.compile",
        "data.files",
        "data.evaluation_files",
        "data.cache",
        "data.workers",
        "strategy.kind",
        "strategy.offload_optimizer",
        "strategy.offload_parameters",
        "strategy.config",
        "chat.samples",
        "model.final_dtype",
        "evaluation.every_steps",
        "evaluation.at_start",
        "evaluation.metrics",
        "evaluation.patience",
        "checkpoint.every_steps",
        "checkpoint.every_minutes",
        "checkpoint.keep",
        "checkpoint.background",
        "checkpoint.max_restarts",
        "checkpoint.max_wait_hours",
        "checkpoint.spot_notices",
        "hub.repo",
        "hub.private",
        "hub.when",
        "hub.wait_minutes",
        "elastic.min_nodes",
        "elastic.wait_minutes",
        "tracking.trackers",
        "tracking.project",
        "tracking.name",
        "optimizer.nonfinite_limit",
        "deterministic",
        "max_hours",
        "log_level",
        "run_id",
        "output_dir",
    }
)
"""Settings that a resumed run may change; the rest define the data or the optimization. (Files may lie elsewhere: it
is their content that is compared.)"""


def flat(section: BaseModel, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of every setting, tuples as lists: `{"batch.tokens": 4096, ...}`."""
    values: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        value = list(value) if isinstance(value, tuple) else value
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return values


def explicit(section: BaseModel, prefix: str = "") -> set[str]:
    """Dotted names of the settings that somebody set, as opposed to defaults."""
    names: set[str] = set()
    for name in section.model_fields_set:
        value = getattr(section, name)
        names |= explicit(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name}
    return names


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """The inverse of `flat`: dotted names to nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def changed(settings: Settings, values: Mapping[str, object]) -> Settings:
    """The settings with others in their place. values: by dotted names. Raises SettingsError where they contradict each
    other."""
    try:
        return Settings.model_validate(nested(flat(settings) | dict(values)))
    except ValidationError as error:
        raise SettingsError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """What is wrong first, in the words of pydantic or of a contradiction."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")
