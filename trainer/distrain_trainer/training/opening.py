"""Where a run begins to write: everything that could be refused has been, and only the disk is left to check."""

from collections.abc import Callable
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.advice import disk_sentence, size
from distrain_trainer.memory.disk import disk_need, free_bytes
from distrain_trainer.memory.estimate import Held
from distrain_trainer.storage.files import bytes_of, write_json
from distrain_trainer.storage.layout import run_entries
from distrain_trainer.storage.previous import set_aside
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.storage.run_folder import can_link, description
from distrain_trainer.training.checkpoint.retention import Retention
from distrain_trainer.training.checks import tell_changes
from distrain_trainer.training.resolve import ResolvedRun

Tell = Callable[[str], None]


def open_folder(
    resolved: ResolvedRun,
    record: dict[str, Any],
    parameters: dict[str, int],
    state: int,
    previous: str | None,
    retention: Retention,
    tell: Tell,
) -> None:
    """Makes the folder this run's. On process 0.

    record: settings.json. parameters: their numbers, {"all", "trainable"}. state: bytes of the optimizer's. previous:
    what becomes of the run that is there, None where none is replaced. Raises SettingsError where the disk is too
    small, VolumeError, VolumeLost.
    """
    folder = resolved.folder
    retention.clean()
    check_disk(resolved, parameters, state, previous is not None, tell)
    if previous is not None:
        before = description(folder)
        with_retries("cannot be written", folder, lambda: set_aside(folder, previous, retention.attempt))
        tell(
            f"the run that was here ({before}) is now in {folder / previous}, and is removed when this one has "
            "finished; until then --resume continues this one"
        )
    tell_changes(resolved.stored, record, tell)
    with_retries("cannot be written", folder, lambda: write_json(folder / "settings.json", record))


def check_disk(resolved: ResolvedRun, parameters: dict[str, int], state: int, replaces: bool, tell: Tell) -> None:
    """Says what the run takes on the disk. Raises SettingsError where a run that begins cannot have that much.

    One that is continued is only warned: what it lacks may be made free before it is needed. replaces: whether the
    folder holds another run, which stays until this one has finished.
    """
    folder, settings = resolved.folder, resolved.settings
    trained = parameters["trainable"]
    sizes = Held(trained, parameters["all"] - trained, 0, 0, 0, state)
    evaluates = resolved.data.evaluation is not None
    need = disk_need(sizes, settings, links=can_link(folder), evaluates=evaluates)
    free = with_retries("cannot be read", folder, lambda: free_bytes(folder))
    tell(f"disk: up to {disk_sentence(need)}; {'unknown' if free is None else size(free)} free")
    if free is None:
        return
    there = bytes_of(run_entries(folder))
    room = free if replaces else free + there
    if need.total <= room:
        return
    kept = need.most_kept(room)
    advice = f"set checkpoint.keep to {kept}, or make room" if kept else "make room, or take a larger volume"
    before = f"; the run that is replaced takes {size(there)} until then, so remove it first" if replaces else ""
    sentence = f"{folder} has room for {size(room)}, but the run takes up to {disk_sentence(need)}; {advice}{before}"
    if resolved.stored is not None:
        tell(sentence)
        return
    raise SettingsError(sentence)
