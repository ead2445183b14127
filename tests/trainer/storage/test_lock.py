"""The lock of a run's folder: one run at a time, found out at once or by its heartbeat, and never left behind."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from distrain_trainer.errors import SettingsError, Stopped
from distrain_trainer.storage import lock
from distrain_trainer.storage.layout import LOCK
from distrain_trainer.storage.lock import hold

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, run: str, end: Connection) -> None:
    try:
        with hold(folder, run) as held:
            end.send("held")
            while end.recv() == "fork":
                if (child := os.fork()) == 0:
                    time.sleep(600)
                end.send(child)
            other = held.check()
            end.send(other.process if other else 0)
    except SettingsError as refused:
        end.send(str(refused))


class Other:
    """Another process that uses the folder until it is told to end, or killed."""

    def __init__(self, folder: Path, run: str = ""):
        self.end, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_hold, args=(folder, run, theirs))
        self.process.start()
        self.said = self.end.recv()

    def leave(self) -> int:
        """Ends it; the process that has taken the folder over, 0 for none."""
        self.end.send("end")
        taken_by: int = self.end.recv()
        self.process.join()
        return taken_by

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def test_a_folder_in_use_is_refused_with_who_uses_it_since_when(tmp_path: Path) -> None:
    other = Other(tmp_path / "new")
    pid, host = other.process.pid, os.uname().nodename
    sentence = rf"new is in use by process {pid} on {host} since \d{{4}}-\d\d-\d\d \d\d:\d\d; wait until it has ended"
    with pytest.raises(SettingsError, match=sentence), hold(tmp_path / "new"):
        raise AssertionError("two hold it")
    assert other.leave() == 0
    assert list((tmp_path / "new").iterdir()) == []
    with hold(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK).exists()


def test_a_lock_dies_with_its_process_even_where_that_has_forked(tmp_path: Path) -> None:
    other = Other(tmp_path)
    other.end.send("fork")
    child = other.end.recv()
    try:
        other.kill()
        assert (tmp_path / LOCK).exists()
        with hold(tmp_path):  # although the child still lives
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_many_that_begin_at_once_one_holds_the_folder(tmp_path: Path) -> None:
    ends = [FORK.Pipe() for _ in range(8)]
    processes = [FORK.Process(target=_hold, args=(tmp_path, "", theirs)) for _, theirs in ends]
    for process in processes:
        process.start()
    said = [end.recv() for end, _ in ends]
    assert said.count("held") == 1
    assert all("is in use by " in text for text in said if text != "held")
    ends[said.index("held")][0].send("end")
    for process in processes:
        process.join()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks, and short times; processes that are forked have the same."""

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 1.0)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_holder_is_known_by_its_heartbeat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Other(tmp_path)
    with pytest.raises(SettingsError, match="is in use by process"), hold(tmp_path):
        raise AssertionError("two hold it")
    assert "waiting up to 1 s for a sign of it" in capsys.readouterr().err
    with pytest.raises(Stopped), hold(tmp_path, stopping=lambda: True):
        raise AssertionError
    other.kill()
    with hold(tmp_path):
        pass
    assert "waiting up to 1 s for a sign of it" in capsys.readouterr().err
    assert not (tmp_path / LOCK).exists()


@pytest.mark.usefixtures("without_locks")
def test_a_holder_of_another_machine_is_watched_and_not_judged_by_its_clock(tmp_path: Path) -> None:
    other = Other(tmp_path)
    record = json.loads((tmp_path / LOCK).read_text())
    other.kill()
    for since in ("1970-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"):
        (tmp_path / LOCK).write_text(json.dumps(record | {"since": since, "kernel": "another"}))
        with hold(tmp_path):
            pass


@pytest.mark.parametrize("locks", [True, False])
def test_the_replacement_of_a_node_takes_the_folder_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, locks: bool
) -> None:
    if not locks:
        request.getfixturevalue("without_locks")
    watched: list[Callable[..., None]] = []
    monkeypatch.setattr(lock, "_watch", lambda *_: watched.append(print))
    other = Other(tmp_path, "ours")
    if locks:
        assert "is in use by" in Other(tmp_path, "another").said
        assert "is in use by" in Other(tmp_path).said
    with hold(tmp_path, "ours") as held:
        assert not watched
        assert other.leave() == os.getpid()  # it finds that it has been replaced, and leaves the file alone
        assert held.check() is None and (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
