"""What a key of another trainer's file can mean here, and how a table of such keys is written.

Most kinds of rule are those of DeepSpeed's keys: `Sets` a setting, `Ignored` without effect, `Refused` with the
reason, `Counts` for a part of the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain_trainer.settings.deepspeed_keys import Counts, Ignored, Passes, Refused, Sets
from distrain_trainer.settings.reader import allowed_values


@dataclass(frozen=True)
class Part:
    """Becomes a setting together with other keys (`together`), under the name of the part. setting: the one that the
    documents name. means: what they say besides."""

    name: str
    setting: str
    means: str = ""


Rule = Sets | Passes | Ignored | Refused | Counts | Part


@dataclass(frozen=True)
class Dialect:
    """The keys of one program. title: what people call it. defaults: dotted settings to the values that its silence
    means, where distrain's own differ. rows: of a micro-batch where the file gives no number; None where silence says
    nothing about a batch."""

    title: str
    rules: Mapping[str, Rule]
    defaults: Mapping[str, object] = field(default_factory=dict)
    rows: int | None = None


def keys(names: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several names, which stand between spaces."""
    return dict.fromkeys(names.split(), rule)


def _own(setting: str) -> dict[str, str]:
    """The names that a choice has here, which mean the same elsewhere."""
    return {name: name for name in allowed_values(setting)}


SWITCH: dict[Any, Any] = {True: True, False: False}
OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"), "adamw_8bit"),
    **dict.fromkeys(("adamw_anyprecision", "paged_adamw_32bit", "paged_adamw"), "adamw"),
    **_own("optimizer.name"),
}
NO_OPTIMIZER = f"optimizer.name knows {', '.join(_own('optimizer.name'))}; adamw_8bit is for where memory is short"
SCHEDULES = {"constant_with_warmup": "constant", **_own("schedule.kind")}
NO_SCHEDULE = f"schedule.kind knows {', '.join(_own('schedule.kind'))}; choose the nearest"
ATTENTION = {
    "sdpa": "sdpa",
    "eager": "eager",
    "flash_attention_2": "flash_attention_2",
    "kernels-community/flash-attn2": "flash_attention_2",
}
NO_ATTENTION = "model.attention knows sdpa, eager and flash_attention_2; leave it out for the model's own"
LOADERS = "the loaders are distrain's own; data.workers is their number"
SHOWN = "every step is in metrics.jsonl and report.html"
ALWAYS = "it is always done"
NO_PADDING = "rows of similar length share a micro-batch, padded to the longest of them"
CACHED = "tokenized data is cached by its content; data.cache says where"
FOLDERS = "the Hub's cache is where the environment variable HF_HOME says"
NO_TOKEN = "tokens come from the environment variable HF_TOKEN; leave it out of files"
NO_FOREIGN_CODE = "code that comes with a model or a data set is not run; choose a model that transformers knows"
OWN_KERNELS = "kernels are PyTorch's; model.compile: true fuses, and model.chunked_loss saves the memory of logits"
NO_NOISE = "no noise is added to embeddings; leave it out"
OWN_SAMPLE = "evaluation.samples draws as many rows, by the seed"
NO_TOKENIZER = "the tokenizer is the model's own; save the two in one folder and name that as model.name"
NO_SCRATCH = "a pretrained model is trained on; save one with these weights and name its folder as model.name"
CUT = "all rows are used; cut the file, or set schedule.max_steps"
OWN_CHECKPOINTS = "checkpoints hold all that a resume needs, as safetensors"
NO_STREAM = "rows are read and tokenized before training; `distrain preprocess` does it ahead of time"
LORA_ALONE = "an adapter of lora.rank is plain, rsLoRA or DoRA; leave it out"
NO_TF32 = "fp32 products are computed in full; precision: bf16 is the fast one"
NO_TEXT_SPLIT = "splits are taken whole; cut the rows beforehand, and name the split as data.train_split"
