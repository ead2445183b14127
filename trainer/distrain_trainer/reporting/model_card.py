"""The model card: README.md of a trained model, with what the Hub reads at its head.

Made from settings.json and the metrics alone. What only the Hub knows, such as the license of the base model, is added
where the model is pushed (`hub.upload`).
"""

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distrain_trainer.settings.tasks import FACTS

PLACE = "path/to/this/model"
"""Where the model is, in the code of a card: its name takes the place of this when it is pushed."""

Record = Mapping[str, Any]


def model_card(
    record: Record,
    steps: int,
    tokens: int,
    best: Mapping[str, Any] | None,
    evaluation: Mapping[str, float | None] | None = None,
) -> str:
    """README.md of a trained model.

    record: settings.json. steps, tokens: trained on. best: {"metric", "value", "step"} of the best evaluation.
    evaluation: the metrics of this model by name, without a prefix; None where it was not evaluated.
    """
    settings, data = record["settings"], record["data"]
    found = {name: value for name, value in (evaluation or {}).items() if value is not None and math.isfinite(value)}
    lines = [
        *card_head(settings, "fine-tuned by distrain", results(record, found)),
        f"- data: {data['description']}: {data['train_rows']:,} training, {data['evaluation_rows']:,} evaluation rows",
        f"- steps: {steps:,}, {tokens:,} tokens",
        *([adapter_line(settings)] if settings["lora"]["rank"] else []),
        f"- {settings['optimizer']['name']}, learning rate {settings['optimizer']['learning_rate']:g}, "
        f"{settings['schedule']['kind']} schedule, {settings['precision']}",
    ]
    if best:
        lines.append(f"- best evaluation: {best['metric']} {best['value']:.4f} at step {best['step']}")
    if found:
        lines += [
            "",
            "## Metrics",
            "",
            f"On {data['evaluation_rows']:,} rows that were not trained on, at step {steps}:",
        ]
        lines += ["", "| metric | value |", "| --- | --- |"]
        lines += [f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in found.items()]
    lines += ["", "## Use", "", *_fenced("python", usage(record))]
    lines += ["", "## Settings", "", "Those that were set; `settings.json` has all of them.", ""]
    lines += [f"- `{name}`: {json.dumps(value)}" for name, value in sorted(record["asked"].items()) if _tells(name)]
    lines += ["", "## How it was made", "", *_fenced("", shlex.join(record["command"])), "", *provenance(record)]
    return "\n".join([*lines, ""])


def card_head(
    settings: Record, made: str, evaluations: list[EvalResult] | None = None, adapter: bool = True
) -> list[str]:
    """The first lines of a model card: what the Hub reads, the title, what was trained.

    settings: of settings.json. made: `fine-tuned by distrain`. adapter: False where an adapter of the settings was
    merged into the model.
    """
    base, rank, name = settings["model"], settings["lora"]["rank"] if adapter else None, base_on_hub(settings)
    title = f"{Path(base['name']).name} {made}"
    kind = "adapter" if rank else "finetune"
    tags = ["distrain", *([] if not rank else ["qlora" if settings["quantization"]["bits"] else "lora"])]
    hub = ModelCardData(
        base_model=name,
        base_model_relation=kind if name else None,
        datasets=[settings["data"]["name"]] if data_on_hub(settings) else None,
        library_name="peft" if rank else "transformers",
        pipeline_tag=FACTS[settings["task"]].pipeline,
        tags=tags,
        metrics=sorted({result.metric_type for result in evaluations}) if evaluations else None,
        model_name=title if evaluations else None,
        eval_results=evaluations or None,
    )
    return [
        *("---", hub.to_yaml(), "---", ""),
        *(f"# {title}", ""),
        f"- task: {settings['task']}",
        f"- base model: {base['name']}" + (f" at {base['revision']}" if base["revision"] else ""),
    ]


def base_on_hub(settings: Record) -> str | None:
    """The base model's name on the Hub, None where it is a local folder.

    settings: of settings.json, in which a model of the Hub has a commit.
    """
    base = settings["model"]
    on_hub = base["revision"] and base["name"].count("/") < 2 and not Path(base["name"]).expanduser().exists()
    return str(base["name"]) if on_hub else None


def data_on_hub(settings: Record) -> bool:
    """Whether the data is a data set of the Hub."""
    return settings["data"]["name"] not in (None, "sample")


def results(record: Record, evaluation: Mapping[str, float]) -> list[EvalResult]:
    """The metrics as the Hub's `model-index` wants them. evaluation: finite values by name."""
    settings, data = record["settings"], record["data"]
    hub = data_on_hub(settings)
    return [
        EvalResult(
            task_type=FACTS[settings["task"]].pipeline,
            dataset_type=settings["data"]["name"] if hub else "local",
            dataset_name=settings["data"]["name"] if hub else data["description"],
            dataset_config=settings["data"]["config"] if hub else None,
            dataset_split=settings["data"]["evaluation_split"],
            dataset_revision=data["commit"],
            metric_type=name.rpartition("_")[0] if name.endswith(("_macro", "_micro", "_weighted")) else name,
            metric_name=name.replace("_", " "),
            metric_value=round(value, 6),
        )
        for name, value in evaluation.items()
    ]


def usage(record: Record) -> str:
    """Python that loads the model."""
    settings = record["settings"]
    base, model = settings["model"], FACTS[settings["task"]].model_class
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{PLACE}")'
    if not settings["lora"]["rank"]:
        lines = [f"from transformers import {model}, AutoTokenizer", "", f'model = {model}.from_pretrained("{PLACE}")']
        return "\n".join([*lines, tokenizer])
    arguments = [f'"{base["name"]}"']
    arguments += [f'revision="{base["revision"]}"'] if base["revision"] else []
    arguments += [f"num_labels={len(record['labels'])}"] if record["labels"] else []
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {model}, AutoTokenizer",
            "",
            f"base = {model}.from_pretrained({', '.join(arguments)})",
            f'model = PeftModel.from_pretrained(base, "{PLACE}")',
            tokenizer,
        ]
    )


def provenance(record: Record) -> Iterator[str]:
    """Lines that say from what the model comes: the run, the code, the data, the machines."""
    hardware, data = record["hardware"], record["data"]
    yield f"- run: {record['run_id']}" + (f", at commit {record['git_commit']}" if record["git_commit"] else "")
    yield f"- data: {data['commit'] or 'fingerprint ' + data['fingerprint']}"
    on = (
        f"{hardware['accelerators']} x {hardware['accelerator']}" if hardware["accelerators"] else hardware["processor"]
    )
    processes = record["world_size"]
    yield f"- hardware: {processes} process{'es' * (processes > 1)}, {on} on each machine"
    yield "- made with: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items())


def adapter_line(settings: Record) -> str:
    """The line of a model card about the adapter. settings: of settings.json."""
    lora, bits = settings["lora"], settings["quantization"]["bits"]
    base = f"the base in {bits} bits" if bits else "the base frozen"
    layers = ", ".join(lora["target_modules"])
    return f"- adapter: LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, on {layers}; {base}"


def _tells(name: str) -> bool:
    """Whether a setting says something of the model."""
    return not name.startswith("hub.") and name not in ("output_dir", "run_id", "log_level")


def _fenced(language: str, text: str) -> list[str]:
    return [f"```{language}", text, "```"]
