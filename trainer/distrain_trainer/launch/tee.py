"""What the first worker of a machine prints: passed on as it comes, and kept in the log of its attempt."""

import os
import selectors
import threading
from contextlib import suppress
from pathlib import Path

STREAMS = (1, 2)
"""Standard output and standard error."""
PIECE = 1 << 16
SECONDS_TO_END = 2.0
"""How long what a worker has printed may take to come through once the worker is gone."""


class Tee:
    """Pipes between a worker and this process's own streams. Where one of these is a terminal, the worker writes there
    itself, since a progress bar is drawn on it.

    log: takes a copy of everything. An error of its volume costs the copy and nothing else.
    """

    def __init__(self, log: Path):
        self._log = log
        self._pipes = {stream: os.pipe() for stream in STREAMS if not os.isatty(stream)}
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def connect(self) -> None:
        """Makes the pipes the streams of this process, which is the worker."""
        for stream, (_, write) in self._pipes.items():
            os.dup2(write, stream)
            os.close(write)
        self.leave()

    def leave(self) -> None:
        """Closes what another process inherits of the pipes."""
        for read, _ in self._pipes.values():
            os.close(read)

    def start(self) -> None:
        """Begins to copy. Called once the worker has been forked, and before any other process is."""
        for _, write in self._pipes.values():
            os.close(write)
        self._thread.start()

    def close(self) -> None:
        """Waits for the last lines of a worker that has ended."""
        self._thread.join(SECONDS_TO_END)

    def _copy(self) -> None:
        with selectors.DefaultSelector() as selector:
            for stream, (read, _) in self._pipes.items():
                selector.register(read, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select():
                    piece = os.read(key.fd, PIECE)
                    if not piece or not self._pass_on(key.data, piece):
                        selector.unregister(key.fd)
                        os.close(key.fd)

    def _pass_on(self, stream: int, piece: bytes) -> bool:
        """Whether somebody still reads this process's stream; if not, the worker shall learn it."""
        with suppress(OSError), self._log.open("ab") as file:
            file.write(piece)
        try:
            while piece:
                piece = piece[os.write(stream, piece) :]
        except OSError:
            return False
        return True
