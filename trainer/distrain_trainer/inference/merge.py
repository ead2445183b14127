"""Merge a trained adapter into its base model: a plain model that needs neither peft nor bitsandbytes."""

import errno
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch

from distrain_trainer.console import say
from distrain_trainer.errors import DataError, SettingsError, VolumeError
from distrain_trainer.hardware.numerics import DTYPES
from distrain_trainer.inference.trained import Trained, load, model_folder, tell_model
from distrain_trainer.models.load import config_to_write
from distrain_trainer.models.lora import CONFIG
from distrain_trainer.reporting.model_card import adapter_line, card_head
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.files import sync_file, sync_folder, write_json, write_text

TEXTS = (
    "The harbour was quiet that morning, and only a few boats had left before the fog came in.",
    "To compute the mean of a list, add all of its numbers and divide the sum by how many there are.",
    "In 1969 the river rose 4.2 metres in 36 hours; 1,250 people left their homes.",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "I would not buy it again: the handle broke after two days and nobody answered my letters.",
)
"""Texts on which logits are compared."""

UNQUANTIZED = {
    "quantization.bits": "null",
    "quantization.compute_dtype": "null",
    "quantization.double_quantization": "true",
    "model.dtype": "null",
    "model.attention": "null",
    "precision": "fp32",
}
"""The settings under which the base model is loaded for merging: all of it in fp32."""
ROUNDING = 1e-2
"""Largest difference that merging in fp32 may make, as a fraction of the largest logit; rounding makes about 1e-6."""


def merge_folder(path: str, output: str | None, dtype: str, checkpoint: str | None = None) -> dict[str, Any]:
    """Writes the adapter of `path` merged into its unquantized base as a folder for from_pretrained.

    output: the folder; None for `merged` beside the adapter's. dtype: of the written weights; they are merged in fp32.
    checkpoint: which of a run's models to take. Returns {"model", "rows", "merging", "quantization"}: the largest and
    mean absolute difference of logits made by merging, and by leaving the quantization behind (None where there was
    none). Raises DataError where the merged model does not compute what the adapter on its base does.
    """
    folder = model_folder(path, checkpoint)
    tell_model(path, folder)
    if not (folder / CONFIG).exists():
        raise DataError(f"{folder} holds a whole model, not an adapter; there is nothing to merge")
    target = Path(output) if output else folder.parent / "merged"
    if target.exists():
        raise SettingsError(f"{target} exists already; remove it, or give another folder with --output")

    trained = load(str(folder), {})
    bits = trained.settings.quantization.bits
    as_trained = logits(trained) if bits else None
    if bits or trained.settings.precision != "fp32":
        trained = load(str(folder), UNQUANTIZED)
    before = logits(trained)
    say(f"merging the adapter of {folder} into its base model")
    merged = trained.model.merge_and_unload()
    check_same(before, logits(trained, merged))
    merged.to(DTYPES[dtype])
    after = logits(trained, merged)
    if not all(bool(row.isfinite().all()) for row in after):
        raise DataError(f"the merged model's weights are too large for {dtype}; choose --dtype bf16 or fp32")
    report = {
        "model": str(target),
        "rows": len(TEXTS),
        "merging": difference(before, after),
        "quantization": difference(as_trained, after) if as_trained else None,
    }
    write(trained, merged, target, dtype, report)
    return report


def logits(trained: Trained, model: Any = None) -> list[torch.Tensor]:
    """Logits of each of TEXTS, in fp32 on the CPU. model: used in place of the trained one."""
    found = []
    for text in TEXTS:
        row = trained.tokenizer(text, return_tensors="pt", truncation=True, max_length=trained.max_length)
        inputs = {name: row[name].to(trained.device) for name in ("input_ids", "attention_mask")}
        with trained.inference():
            found.append((model or trained.model)(**inputs).logits.float().cpu())
    return found


def check_same(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    """Raises DataError where fp32 logits have moved by more than rounding. before, after: one tensor per text."""
    moved = difference(before, after)["largest"] / max(float(row.abs().max()) for row in before)
    if not moved <= ROUNDING:
        raise DataError(
            f"merging moved the logits by {moved:.1e} of the largest, which is more than rounding, so nothing was "
            "written: the adapter cannot be merged into this model; use it with peft on its base"
        )


def difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> dict[str, float]:
    """{"largest", "mean"} of the absolute differences."""
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(before, after, strict=True)])
    return {"largest": float(apart.max()), "mean": float(apart.mean())}


def write(trained: Trained, merged: Any, target: Path, dtype: str, report: dict[str, Any]) -> None:
    """Writes the merged model with its tokenizer, model card and settings.json; the folder appears once complete."""
    record = dict(trained.record)
    adapter = record["settings"]
    plain = Settings().model_dump(mode="json")
    record["settings"] = adapter | {"lora": plain["lora"], "quantization": plain["quantization"]}
    record["settings"]["model"] = adapter["model"] | {"dtype": None}
    record["merged"] = {name: report[name] for name in ("rows", "merging", "quantization")}

    new = target.with_name(f"tmp.{target.name}.{secrets.token_hex(4)}")  # another merge may write beside it
    try:
        new.mkdir(parents=True)
        merged.config = config_to_write(merged)
        merged.save_pretrained(new)
        trained.tokenizer.save_pretrained(new)
        write_text(new / "README.md", card(adapter, record, dtype))
        write_json(new / "settings.json", record)
        for path in new.iterdir():  # safetensors makes files that only their owner can read, whatever the umask
            path.chmod((new / "settings.json").stat().st_mode)
            sync_file(path)
        sync_folder(new)
        new.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise SettingsError(f"{target} was written by another merge meanwhile; use that one") from None
        raise VolumeError(f"{target} cannot be written: {error.strerror or error}; give another folder") from None


def card(adapter: dict[str, Any], record: dict[str, Any], dtype: str) -> str:
    """README.md of a merged model. adapter: the settings that the adapter was trained with."""
    merging, quantization = record["merged"]["merging"], record["merged"]["quantization"]
    lines = [
        *card_head(adapter, "fine-tuned by distrain, merged", adapter=False),
        f"- data: {record['data']['description']}",
        adapter_line(adapter),
        f"- merged in fp32, weights in {dtype}: logits of {len(TEXTS)} texts moved by {merging['largest']:.2g} at most",
    ]
    if quantization:
        lines.append(
            f"- beside the quantized base it was trained on, they moved by {quantization['largest']:.2g} at most"
        )
    return "\n".join([*lines, ""])
