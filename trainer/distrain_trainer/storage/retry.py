"""What fails on the output volume: what passes by itself, as a network file system's does, and what does not."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from distrain_trainer.errors import DistrainError, VolumeError, VolumeLost

T = TypeVar("T")

DENIED = {errno.EACCES, errno.EPERM}
FULL = {errno.ENOSPC, errno.EDQUOT}
MISPLACED = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
LASTING = DENIED | FULL | MISPLACED | {errno.EROFS, errno.EOPNOTSUPP}
"""Failures that a later try meets again. Any other, such as ESTALE, EIO or ETIMEDOUT, may pass."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between two tries."""


def passes(error: OSError) -> bool:
    """Whether a later try may succeed."""
    return error.errno is not None and error.errno not in LASTING


def patiently(what: str, folder: Path, act: Callable[[], T]) -> T:
    """What `act` returns; tried again for 15 s where the volume fails in a way that passes.

    what: `cannot be read` or `cannot be written`. Raises VolumeError, VolumeLost.
    """
    for pause in (*PAUSES, None):
        try:
            return act()
        except OSError as error:
            if pause is None or not passes(error):
                raise failure(what, folder, error) from None
            time.sleep(pause)
    raise AssertionError


def read(file: Path) -> str | None:
    """The text of a file of the run, None where there is none. Raises VolumeError, VolumeLost."""

    def text() -> str | None:
        try:
            return file.read_text()
        except FileNotFoundError:
            return None

    return patiently("cannot be read", file.parent, text)


def failure(what: str, folder: Path, error: OSError) -> DistrainError:
    """The error to raise: with a code that ends the run where it lasts, and one that has it restarted where not."""
    place, reason = folder.absolute(), error.strerror or str(error)
    if passes(error):
        return VolumeLost(f"output_dir {place} {what}: {reason}; the volume may answer again later")
    if error.errno in DENIED:
        return VolumeError(
            f"output_dir {place} {what}: {reason}, for this process is user {os.geteuid()}:{os.getegid()} and "
            f"{_owner(place)}; start it as a user who may (docker run --user $(id -u):0, podSecurity.fsGroup of the "
            "chart), or choose another output_dir"
        )
    advice = "mount it writable"
    if error.errno in FULL:
        advice = "make room"
    elif error.errno in MISPLACED:
        advice = "choose another output_dir"
    return VolumeError(f"output_dir {place} {what}: {reason}; {advice}")


def _owner(place: Path) -> str:
    """`/out is 0:0's (mode 755)`: of the innermost folder that can be looked at."""
    for path in (place, *place.parents):
        try:
            found = path.stat()
        except OSError:
            continue
        return f"{path} is {found.st_uid}:{found.st_gid}'s (mode {found.st_mode & 0o777:o})"
    return "its owner is hidden"
