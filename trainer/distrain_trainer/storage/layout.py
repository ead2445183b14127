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
    "report.html",
    "final",
    "logs",
    "errors",
)
"""What a run writes into its folder, besides checkpoints (checkpoint-*) and temporary folders (tmp.*)."""


def published_checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints of a run, newest first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(match[1]), path) for match, path in found if match), reverse=True)]


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a published checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
