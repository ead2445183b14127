"""What tests of adapters share: settings of small LoRA and QLoRA runs, and a model's logits on two texts."""

from pathlib import Path
from typing import Any

import torch

from distrain_trainer.models.load import load_model, load_tokenizer
from distrain_trainer.settings.model import Settings, nested

LORA = {"lora.rank": 8, "lora.alpha": 16, "optimizer.learning_rate": 1e-2, "schedule.kind": "constant"}
QLORA = LORA | {"quantization.bits": 4}
CLASSIFY = LORA | {
    "schedule.max_steps": 32,
    "batch.micro_batches": 8,
    "evaluation.every_steps": 16,
    "lora.alpha": 32,
    "lora.dropout": 0.1,
}
QUANTIZED = QLORA | {
    "task": "causal-lm",
    "data.long_texts": "truncate",
    "schedule.max_steps": 12,
    "evaluation.every_steps": 4,
}
TEXTS = ["the cat sat on the mat", "good films make people happy"]


def settings_of(model: Path, texts: Path | None, output: Path, **more: Any) -> Settings:
    """Settings of a small run. more: by dotted names."""
    values = {
        "model.name": str(model),
        "data.files": [str(texts)] if texts else None,
        "batch.tokens": 256,
        "batch.samples": None,
        "batch.micro_batches": 2,
        "output_dir": str(output),
    }
    return Settings.model_validate(nested(values | more))


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Logits of the first tokens of TEXTS, without dropout."""
    rows = tokenizer(TEXTS, return_tensors="pt", truncation=True, max_length=6)
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(**{name: rows[name] for name in ("input_ids", "attention_mask")}).logits
    return found


def loaded(folder: Path, **values: Any) -> Any:
    """The model of a folder with a new adapter. values: settings by dotted names."""
    settings = settings_of(folder, None, folder / "out", **({"lora.rank": 4} | values))
    labels = ("a", "b", "c") if settings.task == "sequence-classification" else None
    return load_model(settings, str(folder), "a-commit", load_tokenizer(str(folder), None), labels)
