"""What a tracker is told, and what it must be able to do."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from distrain_trainer.errors import SettingsError
from distrain_trainer.secrets import without_secrets
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Tracking
from distrain_trainer.storage.layout import read_record

Status = Literal["finished", "stopped", "out_of_time", "failed"]
"""How a run, or an attempt at it, has ended: the words of training_info.json."""
NOTHING = -1
"""The newest step of a tracker that holds none."""
EPOCH = "train/epoch"
"""The value that every row has, as its last."""

ANSWER = ("prompt", "answer", "expected")
"""What there is of each sample of a chat."""


@dataclass(frozen=True)
class Row:
    """One step with all that is known of it. values: `train/...` and `eval/...` by name, ending with `EPOCH`."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it.

    id: names it in every tracker, for the run's life. project: None where the tracker's own variable or the default
    decides. settings: nested, as in settings.json. facts: what it ran on and with, nested. pid: of the process that
    trains; None where the run is not under way.
    """

    folder: Path
    id: str
    name: str
    project: str | None
    settings: dict[str, Any]
    facts: dict[str, Any]
    pid: int | None = None

    @staticmethod
    def read(folder: Path, tracking: Tracking | None = None, pid: int | None = None) -> "TrackedRun":
        """The run in a folder. tracking: in place of its own settings. Raises SettingsError, OSError."""
        record = read_record(folder)
        if record is None:
            raise SettingsError(f"{folder} holds no run; name the output_dir of one")
        tracking = tracking or Settings.model_validate(record["settings"]).tracking
        facts = {name: record.get(name) for name in FACTS}
        return TrackedRun(
            folder=folder,
            id=record.get("tracking_id") or re.sub(r"[^\w-]+", "-", record["run_id"]),
            name=tracking.name or record["run_id"],
            project=tracking.project,
            settings=without_secrets(record["settings"]),
            facts=without_secrets(facts),
            pid=pid,
        )

    def project_or(self, variable: str) -> str:
        """The project, where no setting names one by an environment variable, or `distrain`."""
        return self.project or os.environ.get(variable) or "distrain"


FACTS = (
    "run_id",
    "command",
    "data",
    "versions",
    "git_commit",
    "world_size",
    "threads",
    "hardware",
    "parameters",
    "plan",
)
"""What trackers are told of settings.json besides the settings."""


@dataclass(frozen=True)
class Results:
    """What an ended run leaves. step: the last one. metrics: `final/...`, `best/...` and `total/...` by name.

    labels, matrix: int [classes, classes], a row per true class; empty where there is none. answers: of a chat, each
    with `ANSWER`. report: None where it could not be written. files: that and the run's other small ones.
    """

    step: int
    metrics: dict[str, float]
    labels: list[str]
    matrix: list[list[int]]
    answers: list[dict[str, str]]
    report: Path | None
    files: list[Path]

    @staticmethod
    def read(folder: Path, status: Status) -> "Results | None":
        """The results of a run that has ended so; None of one that was stopped and goes on, or where they could not be
        written. Raises OSError, ValueError."""
        path = folder / "training_info.json"
        info = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if status == "stopped" or info.get("status") != status:
            return None
        best, matrix = info["best"], info["confusion_matrix"] or {}
        found = {f"final/{name}": value for name, value in info["final"].items()}
        if best:
            found |= {f"best/{best['metric']}": best["value"], "best/step": best["step"]}
        found |= {f"total/{name}": info[name] for name in ("tokens", "samples", "seconds")}
        report = folder / "report.html"
        return Results(
            step=info["step"],
            metrics={name: value for name, value in found.items() if value is not None},
            labels=[str(label) for label in matrix.get("labels", [])],
            matrix=matrix.get("counts", []),
            answers=info["answers"] or [],
            report=report if report.exists() else None,
            files=[file for file in (report, folder / "settings.json", path) if file.exists()],
        )


class Tracker(Protocol):
    """One tracker of one run. Its methods are called by one thread; they may wait, and raise whatever they meet."""

    def open(self, kept: int) -> int:
        """Finds the run in the tracker, or makes it. Called again after an error.

        kept: steps up to this one will not be computed again. Returns the newest step that the tracker holds for good,
        `NOTHING` where it holds none.
        """

    def send(self, rows: Sequence[Row]) -> None:
        """Takes steps, in their order and each for the first time since `open`."""

    def finish(self, status: Status, results: Results | None) -> None:
        """Takes the results, None where there are none; what was sent is there when this returns."""


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name to value of nested settings or facts."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values
