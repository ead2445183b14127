"""The output folder of a run: which run it belongs to, and how a run is found again in it.

`claim` writes, and is called once per node, by whoever starts its processes. Everything else here only reads, apart
from `remove_run`.
"""

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
from distrain_trainer.storage.layout import RUN_FILES, links_to_final
from distrain_trainer.storage.retry import read_text, with_retries


@dataclass(frozen=True)
class Claim:
    """A folder that belongs to our run.

    settings: to run with; on resume the stored ones, with what may change and was set anew. stored: settings.json of
    the run to continue, None if there is none.
    """

    folder: Path
    settings: Settings
    stored: dict[str, Any] | None


def claim(asked: Settings, resume: bool, overwrite: bool) -> Claim:
    """Makes sure that the output folder exists, can be written, and holds this run or none. Once per node.

    overwrite: a run in it is removed. Raises what `check_writable` and `read_claim` raise.
    """
    folder = Path(asked.output_dir)
    check_writable(folder)
    if overwrite:
        with_retries("cannot be written", folder, lambda: remove_run(folder))
    return read_claim(asked, resume)


def read_claim(asked: Settings, resume: bool) -> Claim:
    """What the output folder holds of this run. Only reads: the folder need not even exist.

    Raises SettingsError if it holds another run or a setting changed that may not, CheckpointError if it has
    checkpoints but no settings.json, VolumeError or VolumeLost if it cannot be read.
    """
    folder = Path(asked.output_dir)
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
        return Claim(folder, settings_on_resume(asked, stored, folder), stored)
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))
        raise SettingsError(
            f"these settings conflict with the run in {folder} ({name + ': ' if name else ''}{first_fault(error)}); "
            "change them, or choose another output_dir"
        ) from None


def settings_on_resume(asked: Settings, stored: Mapping[str, Any], folder: Path) -> Settings:
    """The stored settings, updated by those that were set anew and may change.

    Raises SettingsError for one that may not, ValidationError if the result contradicts itself.
    """
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
                f"{name} is {value!r} but the run in {folder} was started with {before!r}, and settings that define "
                "the data or the optimization may not change on resume; set it back, or choose another output_dir"
            )
    if "schedule.epochs" in names and "schedule.max_steps" not in names:
        values["schedule.max_steps"] = None
    return Settings.model_validate(nested(values))


def is_finished(claimed: Claim) -> bool:
    """Whether the run in a claimed folder has completed the schedule that is asked for.

    Raises VolumeError, VolumeLost.
    """
    if claimed.stored is None:
        return False
    same_schedule = claimed.settings.schedule == Settings.model_validate(claimed.stored["settings"]).schedule
    return same_schedule and finished_steps(claimed.folder) == claimed.stored["plan"]["steps"]


def finished_steps(folder: Path) -> int | None:
    """Steps of the schedule that the run in `folder` has completed, None if it has not.

    Raises VolumeError, VolumeLost.
    """
    try:
        info = json.loads(read_text(folder / "training_info.json") or "{}")
    except ValueError:
        return None
    if info.get("status") != "finished" or not (folder / "final").is_dir():
        return None
    steps: int = info["steps"]
    return steps


def check_writable(folder: Path) -> None:
    """Creates the folder if it is missing, and writes, renames and removes a file in it.

    Raises VolumeError, VolumeLost.
    """
    with_retries("cannot be written", folder, lambda: _probe_writing(folder))


def remove_run(folder: Path) -> None:
    """Removes what a run has written; whatever else lies in the folder stays. Raises OSError."""
    names = [folder / name for name in RUN_FILES]
    for path in names + list(folder.glob("checkpoint-*")) + list(folder.glob("tmp.*")) + links_to_final(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _stored(folder: Path) -> dict[str, Any] | None:
    """settings.json of the run in a folder, None if there is no run.

    Raises CheckpointError, VolumeError, VolumeLost.
    """
    text = read_text(folder / "settings.json")
    if text is None:
        if with_retries("cannot be read", folder, lambda: any(folder.glob("checkpoint-*"))):
            raise CheckpointError(
                f"{folder} has checkpoints but no settings.json; restore it, choose another output_dir, or use "
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


def _probe_writing(folder: Path) -> None:
    """Raises OSError."""
    probe = folder / f"tmp.probe.{secrets.token_hex(8)}"  # random, since every container's process is number 1
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text("")
    renamed = probe.rename(folder / f"{probe.name}.renamed")
    renamed.unlink()


def _description(folder: Path, stored: Mapping[str, Any]) -> str:
    """`abc, finished at step 60 of 60`; the run's id alone if nothing more can be read."""
    try:
        info = json.loads((folder / "training_info.json").read_text())
        return f"{stored['run_id']}, {info['status']} at step {info['step']} of {info['steps']}"
    except (OSError, ValueError, KeyError):
        return str(stored["run_id"])
