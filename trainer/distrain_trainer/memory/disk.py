"""How many bytes a run takes on its volume, from the settings and the numbers of parameters alone."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from distrain_trainer.memory.estimate import Held
from distrain_trainer.memory.forward import FP32, SIZES
from distrain_trainer.settings.model import Settings

LEAST_KEPT = 2
"""The least that `checkpoint.keep` may be."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes in `output_dir` at the fullest moment. checkpoint: of one. keep: those that stay, `checkpoint.keep`.
    models: of `final/`, `checkpoint-best/` and a best model that is being pushed together, as far as they share nothing
    with a checkpoint."""

    checkpoint: int
    keep: int
    models: int

    @property
    def total(self) -> int:
        """With the checkpoint that is written before the oldest one goes."""
        return self.checkpoint * (self.keep + 1) + self.models

    def most_kept(self, room: int) -> int | None:
        """The most checkpoints that can stay on a volume of so many bytes, None where even the least do not fit."""
        kept = (room - self.models) // self.checkpoint - 1
        return kept if kept >= LEAST_KEPT else None


def disk_need(sizes: Held, settings: Settings, *, links: bool = False, evaluates: bool = True) -> DiskNeed:
    """What a run takes: with AdamW 12 bytes for each trained parameter in a checkpoint, 4 for a frozen one that the
    model's files hold (an adapter's do not hold its base).

    links: whether the volume has hard links, by which `final/` is the newest checkpoint's, and the best its
    checkpoint's as long as that stays. evaluates: whether there will be a best model; one that is being pushed may be
    there beside the one that has replaced it.
    """
    frozen = sizes.frozen if settings.lora.rank is None else 0
    model = FP32 * (sizes.trained + frozen)
    checkpoint = model + sizes.state
    pushes = settings.hub.repo is not None and settings.hub.when == "best"
    final = FP32 * int(not links) if settings.model.final_dtype == "fp32" else SIZES[settings.model.final_dtype]
    bests = int(evaluates) + int(evaluates and pushes)
    return DiskNeed(checkpoint, settings.checkpoint.keep, model * bests + model * final // FP32)


def free_bytes(folder: Path) -> int | None:
    """Bytes that are free where a folder is, or will be; None where the file system does not say. Raises OSError."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    return usage.free if usage.total else None
