"""Being asked to stop: once is a wish, which all processes agree on; twice by Ctrl-C is an order."""

import ctypes
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from distrain_trainer.errors import Stopped
from distrain_trainer.progress import say

if TYPE_CHECKING:
    from distrain_trainer.workers import Workers


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


class Requests:
    """What the terminal or the kubelet asks a supervisor for. workers: those to pass it on to."""

    def __init__(self) -> None:
        self.asked = False
        self.workers: Workers | None = None
        self._interrupts = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def pause(self, seconds: float) -> None:
        """Waits, but not after being asked to leave."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.asked:
            time.sleep(0.05)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            if self.workers:
                self.workers.kill()
                self.workers.wait()
            os._exit(130)
        if not self.asked:
            say("stopping: the run is saved at the end of this step; Ctrl-C again leaves at once")
        self.asked = True
        if self.workers:
            self.workers.ask()


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, however that ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(137)
