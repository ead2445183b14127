"""A model's files in another type than they were trained in."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from distrain_trainer.hardware.numerics import DTYPES
from distrain_trainer.memory.model_shapes import INDEX
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.safetensors_writer import SafetensorsWriter


def convert(folder: Path, dtype: str) -> None:
    """Rewrites the fp32 tensors of a model's folder in another type, one at a time. dtype: bf16 or fp16.

    Each file is replaced, never written into: it may be a checkpoint's too, by a hard link. Raises OSError.
    """
    wanted, size = DTYPES[dtype], 0
    for path in sorted(folder.glob("*.safetensors")):
        _convert_file(path, wanted)
        size += path.stat().st_size
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())
        write_json(folder / INDEX, index | {"metadata": {"total_size": size}})
    if (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"dtype": str(wanted).removeprefix("torch.")})


def _convert_file(path: Path, dtype: torch.dtype) -> None:
    new = path.with_name(f"{path.name}.new")
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        first = {name: file.get_tensor(name) for name in names}  # mapped, not read
        types = {name: dtype if tensor.dtype == torch.float32 else tensor.dtype for name, tensor in first.items()}
        with SafetensorsWriter(new, [(name, types[name], first[name].shape) for name in names]) as writer:
            for name in names:
                writer.append(first.pop(name).to(types[name]))
            writer.close()
    new.replace(path)
