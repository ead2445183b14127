"""Signs of life: what each worker is doing, and since when, in a file that it shares with its supervisor.

A worker that is stuck cannot say so. It writes a few bytes of shared memory whenever it goes on, which costs nothing,
and the supervisor looks at them.
"""

import mmap
import os
import struct
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

FORM = struct.Struct("=dqqqd")
"""When (monotonic clock of the machine), section, step, number of the sign, longest time in this section so far."""
REGROUP = "regroup"
"""A file beside those of the signs, by which the supervisor asks its workers to leave with the next checkpoint."""
REMEMBERED = 50
"""Times of a section from which it is learned how long it takes."""


class Section(IntEnum):
    """What a worker is doing. Until `STEP` there is nothing to save."""

    START = 0
    FIRST_STEP = 1
    STEP = 2
    DATA = 3
    EVALUATION = 4
    CHECKPOINT = 5
    END = 6

    def __str__(self) -> str:
        return "waiting for data" if self is Section.DATA else self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Sign:
    """The last sign of a worker. at: by the machine's monotonic clock. longest: seconds that the longest of the last
    sections of this kind took, 0 before the first."""

    at: float
    section: Section
    step: int
    longest: float = 0.0


class Signs:
    """The file of one worker's signs. path: None for a worker that nobody watches."""

    def __init__(self, path: Path | None):
        self._regroup = None if path is None else path.with_name(REGROUP)
        self._count = 0
        self._now: tuple[float, Section] | None = None
        self._taken: dict[Section, deque[float]] = {}
        self._memory: mmap.mmap | None = None
        if path is None:
            return
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, FORM.size)
            self._memory = mmap.mmap(handle, FORM.size)
        finally:
            os.close(handle)

    def give(self, section: Section, step: int = 0) -> None:
        """Says that this worker goes on."""
        if self._memory is None:
            return
        at = time.monotonic()
        if self._now is not None:
            began, before = self._now
            self._taken.setdefault(before, deque(maxlen=REMEMBERED)).append(at - began)
        self._now = at, section
        self._count += 1
        FORM.pack_into(self._memory, 0, at, section, step, self._count, max(self._taken.get(section, (0.0,))))

    @property
    def regroup(self) -> bool:
        """Whether the supervisor wants all to leave where the next checkpoint is published, because a node is back."""
        return self._regroup is not None and self._regroup.exists()


def ask_to_regroup(folder: Path, wanted: bool) -> None:
    """Has the workers whose signs are in this folder leave where they publish the next checkpoint, or not."""
    if wanted:
        (folder / REGROUP).touch()
    else:
        (folder / REGROUP).unlink(missing_ok=True)


def signs_file(folder: Path, local_rank: int) -> Path:
    """The file of a worker's signs."""
    return folder / f"signs-{local_rank}"


def read_sign(path: Path) -> Sign | None:
    """The last sign in a worker's file, None where there is none yet."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) != FORM.size:
        return None
    at, section, step, count, longest = FORM.unpack(content)
    return Sign(at, Section(section), step, longest) if count else None
