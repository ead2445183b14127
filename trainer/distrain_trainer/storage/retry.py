"""Errors of the output volume: which of them pass by themselves, as those of a network file system do, and retries."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from distrain_trainer.errors import DistrainError, VolumeError, VolumeLost
from distrain_trainer.storage.layout import published_checkpoints

T = TypeVar("T")

DENIED = {errno.EACCES, errno.EPERM}
FULL = {errno.ENOSPC, errno.EDQUOT}
WRONG_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}
PERMANENT = DENIED | FULL | WRONG_PATH | {errno.EROFS, errno.EOPNOTSUPP}
"""Errors that a retry meets again. Any other, such as ESTALE, EIO or ETIMEDOUT, is transient."""
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry."""
SEEN_WITHIN = 60.0
"""Seconds within which a network file system shows what another machine has written."""
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "apfs", "hfs"}
"""File systems of one machine, which show at once what there is."""


def is_transient(error: OSError) -> bool:
    """Whether a retry may succeed."""
    return error.errno is not None and error.errno not in PERMANENT


def with_retries(
    what: str, folder: Path, act: Callable[[], T], ours: type[OSError] | tuple[type[OSError], ...] = ()
) -> T:
    """The result of `act`, which is retried for 15 s while the volume fails with a transient error.

    what: `cannot be read` or `cannot be written`. ours: errors that the caller takes care of. Raises VolumeError,
    VolumeLost.
    """
    for delay in (*DELAYS, None):
        try:
            return act()
        except ours:
            raise
        except OSError as error:
            if delay is None or not is_transient(error):
                raise volume_error(what, folder, error) from None
            time.sleep(delay)
    raise AssertionError


def read_when_seen(file: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file that another machine may have written just now.

    On a network file system one that is missing is waited for. Raises FileNotFoundError, VolumeError, VolumeLost.
    """
    deadline: float | None = None
    while True:
        try:
            return with_retries("cannot be read", file.parent, lambda: read(file), ours=FileNotFoundError)
        except FileNotFoundError:
            if deadline is None:
                deadline = time.monotonic() + (0.0 if is_local(file) else SEEN_WITHIN)
            if time.monotonic() >= deadline:
                raise
        time.sleep(1.0)


def is_local(path: Path) -> bool:
    """Whether the file system of a path is known to belong to this machine alone."""
    place, found = path.absolute(), ("", "")
    for mount in psutil.disk_partitions(all=True):
        if place.is_relative_to(mount.mountpoint) and len(mount.mountpoint) >= len(found[0]):
            found = mount.mountpoint, mount.fstype
    return found[1] in LOCAL


def read_text(file: Path) -> str | None:
    """The text of one of the run's files, None if it does not exist. Raises VolumeError, VolumeLost."""

    def read() -> str | None:
        try:
            return file.read_text()
        except FileNotFoundError:
            return None

    return with_retries("cannot be read", file.parent, read)


def volume_error(what: str, folder: Path, error: OSError) -> DistrainError:
    """The error to raise for `error`: VolumeError ends the run, VolumeLost, for one that may pass, has it wait.

    A full volume passes when somebody makes room, for which a run that has checkpoints waits.
    """
    place, reason = folder.absolute(), error.strerror or str(error)
    if is_transient(error):
        return VolumeLost(f"output_dir {place} {what}: {reason}; the volume may answer again later")
    if error.errno in FULL and _has_checkpoints(folder):
        return VolumeLost(f"output_dir {place} {what}: {reason}; make room, and the run goes on")
    if error.errno in DENIED:
        return VolumeError(
            f"output_dir {place} {what}: {reason}, because this process runs as user {os.geteuid()}:{os.getegid()} and "
            f"{_owner(place)}; start it as a user with access (docker run --user $(id -u):0, podSecurity.fsGroup of "
            "the chart), or choose another output_dir"
        )
    advice = "mount it writable"
    if error.errno in FULL:
        advice = "make room"
    elif error.errno in WRONG_PATH:
        advice = "choose another output_dir"
    return VolumeError(f"output_dir {place} {what}: {reason}; {advice}")


def _has_checkpoints(folder: Path) -> bool:
    try:
        return bool(published_checkpoints(folder))
    except OSError:
        return False


def _owner(place: Path) -> str:
    """`/out belongs to 0:0 (mode 755)`, for the innermost folder that can be inspected."""
    for path in (place, *place.parents):
        try:
            found = path.stat()
        except OSError:
            continue
        return f"{path} belongs to {found.st_uid}:{found.st_gid} (mode {found.st_mode & 0o777:o})"
    return "its owner cannot be read"
