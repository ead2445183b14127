"""How far work is that takes over two seconds.

On a terminal: a bar that goes away when the work is done. Otherwise: a line on stderr now and then, so that a log shows
what goes on. What is done sooner shows nothing.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from distrain_trainer.console import clock, say, short

FIRST = 2.0
"""Seconds after which work is shown."""
LONGEST = 60.0
"""Seconds between two lines at most: a gap is twice the one before it."""
TICK = 0.25
"""Seconds between two states of a bar."""
Advance = Callable[[int], None]
"""Is told how many units more are done."""


def unseen(count: int) -> None:
    """The `Advance` of work that nobody looks at."""


class Pace:
    """When lines about work are due, which begins now."""

    def __init__(self) -> None:
        self._started = monotonic()
        self._next = self._gap = FIRST

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until the next line is due, at least 0."""
        return max(self._next - self.elapsed, 0.0)

    def take(self) -> None:
        """Takes the line that is due: the next one is after a longer gap."""
        self._gap = min(self._gap * 2, LONGEST)
        self._next = self.elapsed + self._gap


class Work:
    """Work that may take long. what: `tokenizing`. total: of `unit`, None where it is not known beforehand; the unit
    `bytes` is shown as sizes."""

    def __init__(self, what: str, total: int | None = None, unit: str = "") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.pace = Pace()

    def advance(self, count: int) -> None:
        """Counts so many units more."""
        self.done += count

    @property
    def sentence(self) -> str:
        """`tokenizing: 12,000 of 100,000 texts, 0:32 left`; without a total `predicting: 12,000 rows, 0:05 so far`."""
        so_far = f"{clock(self.pace.elapsed)} so far"
        parts = [self.amount] if self.amount else []
        left = self._left
        return f"{self.what}: {', '.join([*parts, so_far if left is None else f'{clock(left)} left'])}"

    @property
    def amount(self) -> str:
        """`12,000 of 100,000 texts`; empty where nothing is counted."""
        if self.total is None and not self.done:
            return ""
        if self.unit == "bytes":
            return f"{short(self.done)}B" + (f" of {short(self.total)}B" if self.total is not None else "")
        return f"{self.done:,}" + (f" of {self.total:,}" if self.total is not None else "") + f" {self.unit}"

    @property
    def _left(self) -> float | None:
        """Seconds until the end at the pace so far, None where that is not known."""
        if self.total is None or not self.done:
            return None
        return self.pace.elapsed / self.done * max(self.total - self.done, 0)


@contextmanager
def progress(what: str, total: int | None = None, unit: str = "", shown: bool = True) -> Iterator[Advance]:
    """Shows how far the work of the block is, which tells it how many units each piece was. See `Work`.

    shown: whether this process is the one that speaks.
    """
    if not shown:
        yield unseen
        return
    work, over = Work(what, total, unit), threading.Event()
    show = _draw if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else _tell
    thread = threading.Thread(target=show, args=(work, over), name="progress", daemon=True)
    thread.start()
    try:
        yield work.advance
    finally:
        over.set()
        thread.join()


def _tell(work: Work, over: threading.Event) -> None:
    """Says a sentence whenever one is due."""
    while not over.wait(work.pace.left):
        work.pace.take()
        say(work.sentence)


def _draw(work: Work, over: threading.Event) -> None:
    """Draws a bar once the first sentence is due."""
    if over.wait(FIRST):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(complete_style="cyan"))
    # What goes to a file or a pipe must not be drawn above the bar instead.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as drawn:
        task = drawn.add_task(work.sentence, total=work.total)
        while not over.wait(TICK):
            drawn.update(task, completed=work.done, description=work.sentence)
