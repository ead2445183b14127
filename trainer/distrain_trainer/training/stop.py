"""How a worker is asked to stop: by a signal, on which all processes agree before they act."""

import os
import signal
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
