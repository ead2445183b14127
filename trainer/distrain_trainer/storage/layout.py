"""What lies where in a run's folder."""

import re
from pathlib import Path

BEST = "checkpoint-best"
"""The best model so far: a copy of its own, without the training state."""
RUN_FILES = (
    "settings.json",
    "attempt.json",
    "metrics.jsonl",
    "training_info.json",
    "final_training_info.json",
    "report.html",
    "final",
    "logs",
    "errors",
)
"""What a run writes into its folder, besides checkpoints (checkpoint-*), temporary folders (tmp.*) and the links to the
files of the final model (`links_to_final`)."""


def links_to_final(folder: Path) -> list[Path]:
    """The links in a run's folder to files of its `final/`. Nothing else that bears such a name is the run's own."""
    return [path for path in folder.iterdir() if path.is_symlink() and path.readlink().parent == Path("final")]


def published_checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints of a run, newest first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(match[1]), path) for match, path in found if match), reverse=True)]


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a published checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
