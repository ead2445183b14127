"""How far a transfer is: bars on a terminal, lines without one."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from distrain_k8s.output import console, say
from distrain_trainer.bars import Work


class Bar:
    """A bar for each file, on stderr; where that is no terminal, a line now and then about a file that takes long.

    with Bar() as bar:
        moved = bar.add("final/model.safetensors", 90_000_000)
        moved(1 << 20)
    """

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._draws = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console(sys.stderr),
            disable=not self._draws,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, name: str, size: int) -> Callable[[int], None]:
        """A bar for one more file; the answer is told the bytes of each piece."""
        if not self._draws:
            return tell_of(name, size)
        task = self._progress.add_task(name, total=size)
        return lambda count: self._progress.advance(task, count)


def tell_of(name: str, size: int) -> Callable[[int], None]:
    """Says how far a file is, whenever a line is due."""
    work = Work(f"fetching {name}", size, "bytes")

    def moved(count: int) -> None:
        work.advance(count)
        if not work.pace.left and work.done < size:
            work.pace.take()
            say(work.sentence)

    return moved
