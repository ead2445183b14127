"""The output folder of a run: which run it belongs to, and how a run is found again in it.

`claim` writes, and is called by whoever starts the run's processes. Everything else here only reads.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distrain_trainer.errors import CheckpointError, SettingsError
from distrain_trainer.settings.model import MAY_CHANGE, Settings, explicit, first_fault, flat, nested
from distrain_trainer.storage.layout import in_the_way, is_record, published_checkpoints
from distrain_trainer.storage.previous import put_back
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
    """Makes sure that the output folder exists, can be written, and holds this run or none. For who holds its lock.

    overwrite: another run may be in it, and stays until the new one begins to write. Raises what `check_writable` and
    `read_claim` raise.
    """
    folder = Path(asked.output_dir)
    check_writable(folder)
    with_retries("cannot be written", folder, lambda: put_back(folder))
    return read_claim(asked, resume, overwrite)


def read_claim(asked: Settings, resume: bool, overwrite: bool = False) -> Claim:
    """What the output folder holds of this run. Only reads: the folder need not even exist.

    overwrite: what another run has written there does not count. Raises SettingsError if it holds another run, things
    that no run has written where the run would write, or if a setting changed that may not; CheckpointError if it has
    checkpoints but no settings.json, VolumeError or VolumeLost if it cannot be read.
    """
    folder = Path(asked.output_dir)
    stored = None if overwrite else _stored(folder)
    if stored is None:
        names = with_retries("cannot be read", folder, lambda: in_the_way(folder))
        if names:
            raise SettingsError(
                f"{folder} has {' and '.join(names)} from elsewhere, where the run would write; move "
                f"{'it' if len(names) == 1 else 'them'} away, or choose another output_dir"
            )
        return Claim(folder, asked, None)
    same = asked.run_id is not None and asked.run_id == stored["run_id"]
    if not same and (not resume or asked.run_id is not None):
        raise SettingsError(
            f"{folder} holds another run ({description(folder)}); --resume continues it, --overwrite "
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
    asked_values, first_asked, defaults = flat(asked), stored["asked"], flat(Settings())
    names = explicit(asked)
    for name in sorted(names):
        value = asked_values[name]
        before = values[name] if name not in first_asked else first_asked[name]
        if name in MAY_CHANGE:
            values[name] = value
        elif value not in (before, values[name]) and not (value is None and defaults[name] is None):
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
    """Creates the folder if it is missing, and writes, renames and removes in it what a checkpoint is: a folder with a
    file, which a bucket that is mounted as a file system may refuse.

    Raises VolumeError, VolumeLost.
    """
    with_retries("cannot be written", folder, lambda: _probe_writing(folder))


def can_link(folder: Path) -> bool:
    """Whether two names in the folder can be of one file, so that a copy takes no space."""
    name = folder / f"tmp.link.{secrets.token_hex(8)}"
    try:
        os.link(folder / "attempt.json", name)
    except OSError:
        return False
    name.unlink(missing_ok=True)
    return True


def description(folder: Path) -> str:
    """The run in a folder: `abc, finished at step 60 of 60`; its id alone if nothing more can be read."""
    run_id = "unknown"
    try:
        run_id = str(json.loads((folder / "settings.json").read_text())["run_id"])
        info = json.loads((folder / "training_info.json").read_text())
        return f"{run_id}, {info['status']} at step {info['step']} of {info['steps']}"
    except (OSError, ValueError, KeyError, TypeError):
        return run_id


def _stored(folder: Path) -> dict[str, Any] | None:
    """settings.json of the run in a folder, None if there is no run.

    Raises CheckpointError, VolumeError, VolumeLost.
    """
    text = read_text(folder / "settings.json")
    if text is None:
        if with_retries("cannot be read", folder, lambda: published_checkpoints(folder)):
            raise CheckpointError(
                f"{folder} has checkpoints but no settings.json; restore it, choose another output_dir, or use "
                "--overwrite"
            )
        return None
    try:
        stored: dict[str, Any] | None = json.loads(text)
    except ValueError:
        stored = None
    if not is_record(stored):
        raise CheckpointError(f"{folder}/settings.json is damaged; restore it, or choose another output_dir")
    return stored


def _probe_writing(folder: Path) -> None:
    """Raises OSError."""
    probe = folder / f"tmp.probe.{secrets.token_hex(8)}"  # random, since every container's process is number 1
    probe.mkdir(parents=True)
    (probe / "file").write_text("")
    renamed = probe.rename(folder / f"{probe.name}.renamed")
    (renamed / "file").unlink()
    renamed.rmdir()
