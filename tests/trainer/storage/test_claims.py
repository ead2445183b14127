"""Who writes into the output folder to claim it: one process per node, and none to answer a question."""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.run_folder import claim, finished_steps, is_finished, read_claim
from runs import finish, train

IN_CREATE = 0x100
EVENT = struct.Struct("iIII")
"""The head of an inotify event: watch, mask, cookie, length of the name behind it."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


class Creations:
    """The files that any process creates in a folder, as the kernel sees them."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK)
        assert self._queue >= 0, os.strerror(ctypes.get_errno())
        assert libc.inotify_add_watch(self._queue, os.fsencode(folder), IN_CREATE) >= 0

    def names(self) -> list[str]:
        """Names of the files created since the last call."""
        found: list[str] = []
        while True:
            try:
                events = os.read(self._queue, 1 << 16)
            except BlockingIOError:
                return found
            while events:
                length = EVENT.unpack_from(events)[3]
                found.append(events[EVENT.size : EVENT.size + length].rstrip(b"\0").decode())
                events = events[EVENT.size + length :]

    def probes(self) -> list[str]:
        """Those that try whether the folder can be written."""
        return [name for name in self.names() if name.startswith("tmp.probe.")]

    def close(self) -> None:
        os.close(self._queue)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[Path], Creations]]:
    """Watches a folder, which is created."""
    opened: list[Creations] = []

    def watch(folder: Path) -> Creations:
        folder.mkdir()
        opened.append(Creations(folder))
        return opened[-1]

    yield watch
    for creations in opened:
        creations.close()


ONE_STEP = ("--schedule.max_steps", "1", "--data.evaluation_fraction", "0")


def test_the_launcher_claims_the_folder_and_its_workers_only_read(
    bert: Path, texts: Path, tmp_path: Path, watched: Callable[[Path], Creations]
) -> None:
    output = tmp_path / "out"
    creations = watched(output)
    finish(train(bert, texts, output, 2, *ONE_STEP))
    assert len(creations.probes()) == 1
    finish(train(bert, texts, output, 2, *ONE_STEP, "--resume"))
    assert len(creations.probes()) == 1


def test_under_another_launcher_one_process_of_the_node_claims_the_folder(
    bert: Path, texts: Path, tmp_path: Path, watched: Callable[[Path], Creations]
) -> None:
    output = tmp_path / "out"
    creations = watched(output)
    arguments = train(bert, texts, output, 2, *ONE_STEP)[1:]
    at = arguments.index("--processes")
    del arguments[at : at + 2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "distrain_trainer", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(creations.probes()) == 1
    assert (output / "final").is_dir()


def test_a_question_about_a_folder_that_does_not_exist_does_not_create_it(tmp_path: Path) -> None:
    asked = Settings.model_validate({"output_dir": str(tmp_path / "out")})
    claimed = read_claim(asked, resume=True)
    assert claimed.stored is None and not is_finished(claimed) and finished_steps(claimed.folder) is None
    assert list(tmp_path.iterdir()) == []


def test_a_question_creates_and_removes_nothing(tmp_path: Path, watched: Callable[[Path], Creations]) -> None:
    output = tmp_path / "out"
    creations = watched(output)
    for name in ("attempt-notes", "tmp.5.1"):
        (output / name).write_text("")
    assert len(creations.names()) == 2
    asked = Settings.model_validate({"output_dir": str(output)})
    claimed = read_claim(asked, resume=True)
    assert not is_finished(claimed) and finished_steps(output) is None
    assert creations.names() == []
    assert sorted(path.name for path in output.iterdir()) == ["attempt-notes", "tmp.5.1"]
    claim(asked, resume=True, overwrite=False)
    assert len(creations.probes()) == 1
