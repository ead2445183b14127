"""The folder that a run leaves its results in: whose it is, and how a run is found again in it."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distrain_trainer.errors import CheckpointError, SettingsError
from distrain_trainer.settings.model import MAY_CHANGE, Settings, explicit, first_fault, flat, nested
from distrain_trainer.storage.retry import patiently, read

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
    written, VolumeLost where that may pass, CheckpointError where it has checkpoints of a run that is not described.
    """
    folder = Path(asked.output_dir)
    patiently("cannot be written", folder, lambda: _try_to_write(folder))
    if overwrite:
        patiently("cannot be written", folder, lambda: clear(folder))
    stored = _stored(folder)
    if stored is None:
        return Claim(folder, asked, None)
    same = asked.run_id is not None and asked.run_id == stored["run_id"]
    if not same and (not resume or asked.run_id is not None):
        raise SettingsError(
            f"{folder} holds another run ({_description(folder, stored)}); --resume continues it, --overwrite "
            "replaces it, or choose another output_dir"
        )
    try:
        return Claim(folder, continued(asked, stored, folder), stored)
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))
        raise SettingsError(
            f"what is asked for does not go with the run in {folder} ({name + ': ' if name else ''}"
            f"{first_fault(error)}); ask for what does, or choose another output_dir"
        ) from None


def _stored(folder: Path) -> dict[str, Any] | None:
    """settings.json of the run in a folder, None where there is no run.

    Raises CheckpointError, VolumeError, VolumeLost.
    """
    text = read(folder / "settings.json")
    if text is None:
        if patiently("cannot be read", folder, lambda: any(folder.glob("checkpoint-*"))):
            raise CheckpointError(
                f"{folder} has checkpoints but no settings.json; bring it back, choose another output_dir, or "
                "--overwrite"
            )
        return None
    try:
        stored = json.loads(text)
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not stored.keys() >= {"run_id", "settings", "asked"}:
        raise CheckpointError(f"{folder}/settings.json is damaged; restore it, or choose another output_dir")
    return stored


def continued(asked: Settings, stored: Mapping[str, Any], folder: Path) -> Settings:
    """The stored settings with what was asked for anew, where that may change."""
    values = flat(Settings.model_validate(stored["settings"]))
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
    return Settings.model_validate(nested(values))


def is_finished(claimed: Claim) -> bool:
    """Whether the run in a folder has come to the end of the schedule that is asked for."""
    try:
        info = json.loads(read(claimed.folder / "training_info.json") or "")
    except ValueError:
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


def _try_to_write(folder: Path) -> None:
    """Makes the folder, and sees whether what must work in it does. Raises OSError."""
    probe = folder / f"tmp.probe.{secrets.token_hex(8)}"  # in containers all are process 1
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("")
    renamed = probe.rename(folder / f"{probe.name}.renamed")
    renamed.unlink()


def _description(folder: Path, stored: Mapping[str, Any]) -> str:
    try:
        info = json.loads((folder / "training_info.json").read_text())
        return f"{stored['run_id']}, {info['status']} at step {info['step']} of {info['steps']}"
    except (OSError, ValueError, KeyError):
        return str(stored["run_id"])
