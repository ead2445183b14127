"""How far a transfer is, on the terminal."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from distrain_k8s.output import console


class Bar:
    """A bar for each file, on stderr; none where that is no terminal.

    with Bar() as bar:
        moved = bar.add("final/model.safetensors", 90_000_000)
        moved(1 << 20)
    """

    def __init__(self) -> None:
        import sys

        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console(sys.stderr),
            disable=not sys.stderr.isatty(),
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
        task = self._progress.add_task(name, total=size)
        return lambda count: self._progress.advance(task, count)
