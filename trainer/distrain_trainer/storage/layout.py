"""What lies where in a run's folder, and how a run's own things are told from a person's.

A name alone proves little: other programs also write `checkpoint-500`, `logs` and `final`. So a folder counts as a
run's by what is in it, and whatever else lies there is neither moved, replaced nor removed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST, STATE, OPTIMIZER = "manifest.json", "state.json", "optimizer"
"""Files of a checkpoint beside its model; the third is how the names of several begin."""
BEST = "checkpoint-best"
"""The best model so far: a copy of its own, without the training state."""
LOCK = "lock.json"
"""Who uses the folder (`storage.lock`); it is there only while somebody does, or after a kill."""
PREVIOUS = r"previous-\d{8}-\d{6}(-\d+)?"
"""The run that was in the folder before (`storage.previous`)."""

PUSHED = "hub.json"
"""What of the run is on the Hub."""
REFERENCE = "reference.safetensors"
"""How likely the answers of preferences were before training."""
RECORDS = (
    "settings.json",
    "metrics.jsonl",
    "training_info.json",
    "final_training_info.json",
    "report.html",
    PUSHED,
    REFERENCE,
)
"""Files of a run; those of the attempts (`attempt.json`, `logs/`, `errors/`) come before the first of these."""
MODELS = ("final", BEST)
_WRITTEN_BESIDE = {
    "logs": r"node-\d+\.attempt-\d+\.log|nccl\.attempt-\d+\.rank-\d+",
    "errors": r"attempt-\d+|supervisor-.*\.txt",
    "tensorboard": r"events\.out\.tfevents\..*\.distrain",
    "wandb": r"offline-run-\d{8}_\d{6}-[0-9a-f]{12}",
}
"""Folders that a run may share with a person -> what it writes into them."""
_TEMPORARY = re.compile(r"tmp\.((?:\d+|best|hub)\.(\d+)|final(?:\.old)?|discarded\..+)")
SHARED = tuple(_WRITTEN_BESIDE)


def published_checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints of a run, newest first: also damaged ones, but none that another program wrote."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    numbered = sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
    return [path for _, path in numbered if _is_checkpoint(path)]


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a published checkpoint."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def model_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint's model, without those of the training state. Raises OSError."""
    state = (MANIFEST, STATE)
    return [p for p in sorted(checkpoint.iterdir()) if p.name not in state and not p.name.startswith(OPTIMIZER)]


def temporary(folder: Path) -> list[tuple[Path, int | None]]:
    """Folders that a run has left half-written, each with the attempt that wrote it where its name says so.

    They are known by the run's own names for them: what `distrain merge` writes has another.
    """
    found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, int(match[2]) if match[2] else None) for path, match in found if match]


def previous_runs(folder: Path) -> list[Path]:
    """The folders in which earlier runs are kept until the one that has replaced them is finished, oldest first."""
    return sorted(path for path in folder.glob("previous-*") if re.fullmatch(PREVIOUS, path.name) and path.is_dir())


def holds_run(folder: Path) -> bool:
    """Whether a run has written into the folder. Raises OSError."""
    if not folder.is_dir():
        return False
    return bool(read_record(folder) or published_checkpoints(folder) or _is_model(folder / "final"))


def run_entries(folder: Path) -> list[Path]:
    """Everything in the folder that its run has written but for `attempt.json`, which counts on for the next one.

    Entries of folders that a person may use too, such as `logs/`, stand for themselves. Raises OSError.
    """
    if not holds_run(folder):
        return []
    found = [folder / name for name in RECORDS if (folder / name).is_file()]
    found += [folder / name for name in MODELS if _is_model(folder / name)]
    return [*found, *links_to_final(folder), *published_checkpoints(folder), *_written_beside(folder)]


def links_to_final(folder: Path) -> list[Path]:
    """The links in a run's folder to files of its `final/`. Nothing else that bears such a name is the run's own."""
    return [path for path in folder.iterdir() if path.is_symlink() and path.readlink().parent == Path("final")]


def in_the_way(folder: Path) -> list[str]:
    """Names in the folder that a new run would write over, and that no run has written. Raises OSError."""
    if not folder.is_dir():
        return []
    taken = {path.name for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)}
    taken |= {name for name in (*RECORDS, *MODELS) if (folder / name).exists()}
    return sorted(taken - {path.name for path in run_entries(folder)})


def read_record(folder: Path) -> dict[str, Any] | None:
    """settings.json of the run in a folder, None where there is none of a run. Raises OSError."""
    try:
        record = json.loads((folder / "settings.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if is_record(record) else None


def is_record(content: object) -> bool:
    """Whether this is the content of a run's settings.json."""
    return isinstance(content, dict) and content.keys() >= {"run_id", "settings", "asked"}


def _is_checkpoint(path: Path) -> bool:
    """Whether a run has written this folder. One of its files is enough: the others may be damaged or lost."""
    return any((path / name).is_file() for name in (MANIFEST, STATE)) or _is_model(path)


def _is_model(path: Path) -> bool:
    return path.is_dir() and read_record(path) is not None


def _written_beside(folder: Path) -> Iterator[Path]:
    for name, pattern in _WRITTEN_BESIDE.items():
        if (folder / name).is_dir():
            yield from (path for path in sorted((folder / name).iterdir()) if re.fullmatch(pattern, path.name))
