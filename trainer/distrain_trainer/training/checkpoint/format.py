"""The files of a checkpoint, and what a run remembers besides its tensors."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.layout import MANIFEST, STATE
from distrain_trainer.storage.safetensors_writer import WrittenFile

FORMAT = 1
"""Version of the format; other versions are refused."""


@dataclass
class TrainingState:
    """What a run remembers besides its tensors: the content of `state.json`.

    step: steps done. evaluated_step: step of the last evaluation. best: {"metric", "value", "step"}.
    misses: evaluations in a row without a better metric. skipped: steps in a row whose gradient was not finite.
    tokens, padded_tokens, samples, seconds: trained on so far, over all attempts and processes.
    epoch_loss, epoch_targets: sums over the current epoch. loss_scale: of fp16.
    """

    step: int = 0
    evaluated_step: int = 0
    best: dict[str, Any] | None = None
    misses: int = 0
    skipped: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_targets: float = 0.0
    loss_scale: dict[str, Any] | None = None


def write_state(checkpoint: Path, state: TrainingState) -> None:
    """Raises OSError."""
    write_json(checkpoint / STATE, asdict(state))


def read_state(checkpoint: Path) -> TrainingState:
    """The state in a checkpoint; values that this version does not know are ignored. Raises OSError, ValueError."""
    known = {field.name for field in fields(TrainingState)}
    state = json.loads((checkpoint / STATE).read_text())
    return TrainingState(**{name: value for name, value in state.items() if name in known})


def part_name(kind: str, rank: int, parts: int) -> str:
    """The file in which process `rank` writes its weights or optimizer tensors, one of `parts`."""
    return f"{kind}-{rank + 1:05}-of-{parts:05}.safetensors" if parts > 1 else f"{kind}.safetensors"


def write_weights_index(checkpoint: Path, files: Iterable[str]) -> None:
    """Writes the index by which from_pretrained finds the file of each weight. Raises OSError."""
    weight_map: dict[str, str] = {}
    size = 0
    for name in sorted(name for name in files if name.startswith("model-")):
        opened: Any = safe_open(checkpoint / name, "pt")
        weight_map |= dict.fromkeys(opened.keys(), name)
        size += (checkpoint / name).stat().st_size
    write_json(
        checkpoint / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
    )


def write_manifest(checkpoint: Path, step: int, world: int, fingerprint: str, files: Mapping[str, WrittenFile]) -> None:
    """Writes the manifest, which makes the checkpoint whole.

    fingerprint: of the data. files: by name, those that were hashed while they were written; the rest are hashed here.
    Raises OSError.
    """
    hashed = dict(files)
    for path in sorted(checkpoint.iterdir()):
        if path.name not in hashed:
            hashed[path.name] = _sync_and_hash(path)
    manifest = {
        "format": FORMAT,
        "step": step,
        "world": world,
        "data": fingerprint,
        "files": {name: asdict(hashed[name]) for name in sorted(hashed)},
    }
    write_json(checkpoint / MANIFEST, manifest)


def open_tensors(checkpoint: Path, kind: str) -> dict[str, Any]:
    """Tensor name -> the open file that holds it, over all files of a kind (model, optimizer or the adapter's)."""
    found: dict[str, Any] = {}
    for file in sorted(checkpoint.glob(f"{kind}*.safetensors")):
        opened: Any = safe_open(file, "pt")
        found |= dict.fromkeys(opened.keys(), opened)
    return found


def reason(error: OSError) -> str:
    """`No space left on device`."""
    return error.strerror or str(error)


def _sync_and_hash(path: Path) -> WrittenFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return WrittenFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
