"""The run that `--overwrite` replaces: it is kept in a folder within the run's own until the new one is finished.

The run's folder itself may be a mount, so its entries are renamed. That is undone where it was interrupted: only the
last of the renames, that of the folder which takes them, makes it hold.
"""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from distrain_trainer.storage.files import sync_folder
from distrain_trainer.storage.layout import LOCK, SHARED, previous_runs, run_entries

_UNDER_WAY = "tmp."


def name_for_previous(folder: Path) -> str:
    """A name for the run that is in the folder now, once it has been replaced: `previous-<date>-<time>`."""
    name = f"previous-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = sum(path.name.startswith(name) for path in previous_runs(folder))
    return f"{name}-{taken + 1}" if taken else name


def set_aside(folder: Path, name: str, attempt: int) -> None:
    """Moves the run in the folder into its sub-folder `name`. attempt: of the run that replaces it. Raises OSError."""
    kept = folder / f"{_UNDER_WAY}{name}"
    kept.mkdir(exist_ok=True)
    for path in run_entries(folder):
        if f"attempt-{attempt}" not in (path.name, path.stem.partition(".")[2]):
            _move(path, kept / path.relative_to(folder))
    sync_folder(kept)
    kept.rename(folder / name)
    sync_folder(folder)


def put_back(folder: Path) -> None:
    """Undoes a `set_aside` that was interrupted. Raises OSError."""
    for kept in folder.glob(f"{_UNDER_WAY}previous-*"):
        for path in [*(path for name in SHARED for path in kept.glob(f"{name}/*")), *kept.iterdir()]:
            target = folder / path.relative_to(kept)
            if not target.exists():
                _move(path, target)
        sync_folder(folder)
        shutil.rmtree(kept)


def remove_previous(folder: Path) -> list[Path]:
    """Removes the runs that the one in the folder has replaced, and returns the folders that are gone.

    What a person has put beside them stays, and so does a run that somebody has continued there.
    """
    gone = []
    for kept in previous_runs(folder):
        if (kept / "attempt.json").exists() or (kept / LOCK).exists():
            continue
        with suppress(OSError):
            for path in reversed(run_entries(kept)):  # settings.json last: by it the rest is known to be a run's
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for shared in SHARED:
                if (kept / shared).is_dir():
                    (kept / shared).rmdir()
            kept.rmdir()
            gone.append(kept)
    return gone


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
