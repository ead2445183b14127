"""The folder that a run leaves its results in: whose it is, and how a run is found again in it."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain_trainer.errors import CheckpointError, SettingsError, VolumeError
from distrain_trainer.settings import MAY_CHANGE, Settings, changed, explicit, flat

OWN = ("settings.json", "attempt.json", "metrics.jsonl", "training_info.json", "report.html", "final", "logs", "errors")
"""What a run writes into its folder, beside checkpoints and temporary folders."""


@dataclass(frozen=True)
class Claim:
    """A folder that is ours. settings: those to run with. stored: settings.json of the run to continue, else None."""

    folder: Path
    settings: Settings
    stored: dict[str, Any] | None


def claim(asked: Settings, resume: bool, overwrite: bool) -> Claim:
    """Makes sure that the output folder can be written and holds this run or none.

    Raises SettingsError where it holds another run or settings changed that may not, VolumeError where it cannot be
    written, CheckpointError where it has checkpoints of a run that is not described.
    """
    folder = Path(asked.output_dir)
    _check_writable(folder)
    if overwrite:
        clear(folder)
    try:
        stored = json.loads((folder / "settings.json").read_text())
    except FileNotFoundError:
        if any(folder.glob("checkpoint-*")):
            raise CheckpointError(
                f"{folder} has checkpoints but no settings.json; bring it back, choose another output_dir, or "
                "--overwrite"
            ) from None
        return Claim(folder, asked, None)
    except ValueError:
        raise CheckpointError(f"{folder}/settings.json is damaged; restore it, or choose another output_dir") from None
    same = asked.run_id is not None and asked.run_id == stored["run_id"]
    if not same and (not resume or asked.run_id is not None):
        raise SettingsError(
            f"{folder} holds another run ({_description(folder, stored)}); --resume continues it, --overwrite "
            "replaces it, or choose another output_dir"
        )
    return Claim(folder, continued(asked, stored, folder), stored)


def continued(asked: Settings, stored: Mapping[str, Any], folder: Path) -> Settings:
    """The stored settings with what was asked for anew, where that may change."""
    started = Settings.model_validate(stored["settings"])
    values = flat(started)
    asked_values, first_asked = flat(asked), stored["asked"]
    names = explicit(asked)
    for name in sorted(names):
        value = asked_values[name]
        before = values[name] if name not in first_asked else first_asked[name]
        if name in MAY_CHANGE:
            values[name] = value
        elif value not in (None, before, values[name]):
            raise SettingsError(
                f"{name} is {value!r} but the run in {folder} was started with {before!r}, and what defines the data "
                "or the optimization may not change on resume; set it back, or choose another output_dir"
            )
    if "schedule.epochs" in names and "schedule.max_steps" not in names:
        values["schedule.max_steps"] = None
    return changed(started, values)


def is_finished(claimed: Claim) -> bool:
    """Whether the run in a folder has come to the end of the schedule that is asked for."""
    try:
        info = json.loads((claimed.folder / "training_info.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    stored = claimed.stored
    assert stored is not None
    same = claimed.settings.schedule == Settings.model_validate(stored["settings"]).schedule
    ended = info["status"] == "finished" and info["steps"] == stored["plan"]["steps"]
    return same and ended and (claimed.folder / "final").is_dir()


def clear(folder: Path) -> None:
    """Removes a run's own files; whatever else lies in the folder stays."""
    for path in [folder / name for name in OWN] + list(folder.glob("checkpoint-*")) + list(folder.glob("tmp.*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_writable(folder: Path) -> None:
    probe = folder / f"tmp.probe.{secrets.token_hex(8)}"  # in containers all are process 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        renamed = probe.rename(folder / f"{probe.name}.renamed")
        renamed.unlink()
    except OSError as error:
        raise VolumeError(
            f"output_dir {folder.absolute()} cannot be written: {error.strerror}; mount it writable"
        ) from None


def _description(folder: Path, stored: Mapping[str, Any]) -> str:
    try:
        info = json.loads((folder / "training_info.json").read_text())
        return f"{stored['run_id']}, {info['status']} at step {info['step']} of {info['steps']}"
    except (OSError, ValueError, KeyError):
        return str(stored["run_id"])
