"""The model card: README.md of a trained model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrain_trainer.settings.tasks import FACTS


def model_card(record: Mapping[str, Any], steps: int, tokens: int, best: Mapping[str, Any] | None) -> str:
    """README.md of a trained model.

    record: settings.json. steps, tokens: trained on. best: {"metric", "value", "step"} of the best evaluation.
    """
    settings, data = record["settings"], record["data"]
    adapter = settings["lora"]["rank"]
    lines = [
        *card_head(settings, "peft" if adapter else "transformers", "fine-tuned by distrain"),
        f"- data: {data['description']}: {data['train_rows']:,} training, {data['evaluation_rows']:,} evaluation rows",
        f"- steps: {steps:,}, {tokens:,} tokens",
        *([adapter_line(settings)] if adapter else []),
        f"- {settings['optimizer']['name']}, learning rate {settings['optimizer']['learning_rate']:g}, "
        f"{settings['schedule']['kind']} schedule, {settings['precision']}",
    ]
    if best:
        lines.append(f"- best evaluation: {best['metric']} {best['value']:.4f} at step {best['step']}")
    names = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join([*lines, f"- made with: {names}", ""])


def card_head(settings: Mapping[str, Any], library: str, made: str) -> list[str]:
    """The first lines of a model card: what the Hub reads, the title, what was trained.

    settings: of settings.json. library: that loads the model. made: `fine-tuned by distrain`.
    """
    base = settings["model"]
    return [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {FACTS[settings['task']].pipeline}",
        "---",
        "",
        f"# {Path(base['name']).name} {made}",
        "",
        f"- task: {settings['task']}",
        f"- base model: {base['name']}" + (f" at {base['revision']}" if base["revision"] else ""),
    ]


def adapter_line(settings: Mapping[str, Any]) -> str:
    """The line of a model card about the adapter. settings: of settings.json."""
    lora, bits = settings["lora"], settings["quantization"]["bits"]
    base = f"the base in {bits} bits" if bits else "the base frozen"
    layers = ", ".join(lora["target_modules"])
    return f"- adapter: LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, on {layers}; {base}"
