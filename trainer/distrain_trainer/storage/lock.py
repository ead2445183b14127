"""Who uses a run's folder: one run at a time writes into it.

On one machine the kernel says so, by a lock (flock) on `lock.json` that ends with the process. Other machines on a
shared volume may not see that lock, so its holder also counts up a heartbeat in the file, and whoever finds a holder of
another machine watches for it: no two clocks are compared. A node of the same cluster run takes the folder over at
once, since the cluster replaces a pod only when the one before is gone or lost; the old one finds another holder in the
file and leaves.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from distrain_trainer.console import say
from distrain_trainer.errors import SettingsError, Stopped
from distrain_trainer.storage.layout import LOCK
from distrain_trainer.storage.retry import with_retries

BEAT = 5.0
"""Seconds between two heartbeats."""
SILENCE = 30.0
"""Seconds without a heartbeat after which a holder on another machine is gone."""
GRACE = 1.0
"""Seconds in which a holder may be one that only looks, and is refused itself."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""How a file system says that it has no locks."""
_LENGTH = 512
"""Bytes of the file: always as many, so that a heartbeat takes no space anew and is written at once."""
_open: set[int] = set()


def _forget() -> None:
    """Closes the locks in a forked process, which must not outlive in it the process that took them."""
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True)
class Holder:
    """Who uses a folder: the content of `lock.json`.

    nonce: tells it from any other. process, host, since: for people. kernel: which kernel knows its lock, empty where
    that is not known. run: the cluster run that it is a node of, empty where there is no cluster. beat: counts up.
    """

    nonce: str
    process: int
    host: str
    since: str
    kernel: str
    run: str
    beat: int = 0

    @property
    def title(self) -> str:
        """`process 71 on gpu-3 since 2026-11-25 10:04`."""
        try:
            since = f" since {datetime.fromisoformat(self.since).astimezone():%Y-%m-%d %H:%M}"
        except ValueError:
            since = ""
        return f"process {self.process} on {self.host}{since}"


class FolderLock:
    """A folder that this process uses. Made by `hold`."""

    def __init__(self, folder: Path, handle: int, holder: Holder):
        self.folder, self._handle, self._holder = folder, handle, holder
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._other: Holder | None = None
        self._write()
        self._beats.start()

    def lost_to(self) -> Holder | None:
        """Who has taken the folder over, as of the last heartbeat; None while it is ours."""
        return self._other

    def check(self) -> Holder | None:
        """Who has taken the folder over, as of now."""
        found = _read(self.folder / LOCK)
        if found is not None and found.nonce != self._holder.nonce:
            self._other = found
        return self._other

    def release(self) -> None:
        """Ends the use of the folder."""
        self._over.set()
        self._beats.join()
        with suppress(OSError):
            if self.check() is None:
                (self.folder / LOCK).unlink()
        _close(self._handle)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):
                if self.check():
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._write()

    def _write(self) -> None:
        text = json.dumps(asdict(self._holder))
        with suppress(OSError):  # on a full disk the lock holds, without a name
            os.pwrite(self._handle, text.encode().ljust(_LENGTH), 0)
            os.fsync(self._handle)


@contextmanager
def hold(folder: Path, run: str = "", stopping: Callable[[], bool] = lambda: False) -> Iterator[FolderLock]:
    """Uses a folder alone, which is made where it is missing.

    run: the cluster run that this process is a node of, empty where there is none. stopping: whether this process is
    asked to leave. Raises SettingsError where another uses it, VolumeError, VolumeLost, Stopped.
    """
    handle = _take(folder, run, stopping)
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    us = Holder(secrets.token_hex(8), os.getpid(), platform.node()[:64], since, _kernel(handle), run)
    lock = FolderLock(folder, handle, us)
    try:
        yield lock
    finally:
        lock.release()


def _take(folder: Path, run: str, stopping: Callable[[], bool]) -> int:
    """The open `lock.json` of a folder that nobody else uses, locked where that is possible."""
    path, deadline = folder / LOCK, time.monotonic() + GRACE
    while True:
        handle, locked = with_retries("cannot be written", folder, lambda: _open_and_lock(path))
        try:
            found = _read(path)
            if found is None or not run or found.run != run:
                if locked is False and time.monotonic() < deadline:
                    _close(handle)
                    time.sleep(0.1)
                    continue
                if locked is False:
                    raise _in_use(folder, found)
                if found is not None and not (locked and found.kernel and found.kernel == _kernel(handle)):
                    _watch(folder, found, stopping)
        except BaseException:
            _close(handle)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        _close(handle)  # its last holder has removed it in between


def _open_and_lock(path: Path) -> tuple[int, bool | None]:
    """The open file, and whether it is locked for us; None where the file system has no locks. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _open.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle, True
    except BlockingIOError:
        return handle, False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return handle, None
        _close(handle)
        raise


def _close(handle: int) -> None:
    if handle in _open:
        _open.discard(handle)
        os.close(handle)


def _read(path: Path) -> Holder | None:
    """Who is named in the file, None where nobody is."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _watch(folder: Path, found: Holder, stopping: Callable[[], bool]) -> None:
    """Waits until a holder that this machine knows nothing of has been silent for long. Raises SettingsError where it
    is not, Stopped."""
    say(f"{folder} was in use by {found.title}; waiting up to {SILENCE:.0f} s for a sign of it")
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        if stopping():
            raise Stopped(f"stopped while waiting for {folder}; nothing is lost")
        time.sleep(min(0.5, BEAT / 5))
        now = _read(folder / LOCK)
        if now is not None and now != found:
            raise _in_use(folder, now)
        if now is None and not (folder / LOCK).exists():
            return


def _in_use(folder: Path, holder: Holder | None) -> SettingsError:
    return SettingsError(
        f"{folder} is in use by {holder.title if holder else 'another process'}; wait until it has ended, stop it, or "
        "choose another output_dir"
    )


def _kernel(handle: int) -> str:
    """Tells the kernel and the file system in which a lock is held from any others, empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{boot}:{os.fstat(handle).st_dev}"
