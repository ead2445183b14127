"""Being asked to stop, as a worker hears it: a wish, which all processes agree on."""

import ctypes
import os
import signal
import sys
from types import FrameType

from distrain_trainer.errors import Stopped


class StopRequest:
    """Listens for SIGTERM, SIGINT and the supervisor's SIGUSR1.

    Until `defer` is called a signal ends the process at once by raising Stopped: there is nothing to save yet.
    After it a signal only sets `asked`, and the loop leaves at a step that all processes agree on.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def defer(self) -> None:
        """From now on a signal is a wish."""
        self._deferred = True

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            os._exit(130)
        self.asked = True
        if not self._deferred:
            raise Stopped("stopped before the first step; start the same command again")


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, however that ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(137)
