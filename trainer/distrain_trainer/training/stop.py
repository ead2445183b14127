"""How a worker is asked to stop: by a signal, on which all processes agree before they act."""

import ctypes
import os
import signal
import sys
from types import FrameType

from distrain_trainer.errors import StopNow


class StopRequest:
    """Listens for SIGTERM, SIGINT and the supervisor's SIGUSR1.

    Until `defer` is called a signal raises StopNow, which ends the process at once: there is nothing to save yet.
    Afterwards a signal only sets `asked`, and the loop stops at a step that all processes agree on. A second SIGINT
    ends the process at once (130).
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the image holds it back until here

    def defer(self) -> None:
        """From now on a signal is a request."""
        self._deferred = True

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            os._exit(130)
        self.asked = True
        if not self._deferred:
            raise StopNow


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, in whatever way (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended in between
        os._exit(137)
