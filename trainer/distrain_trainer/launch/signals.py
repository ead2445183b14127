"""What the terminal or the kubelet asks a supervisor for: first to save and leave, then to leave at once."""

import os
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

from distrain_trainer.console import say

if TYPE_CHECKING:
    from distrain_trainer.launch.workers import Workers


class Requests:
    """What the terminal or the kubelet asks a supervisor for. workers: those to pass it on to."""

    def __init__(self) -> None:
        self.asked = False
        self.workers: Workers | None = None
        self._interrupts = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the image holds it back until here

    @property
    def interrupted(self) -> bool:
        """Whether a person has asked, with Ctrl-C."""
        return self._interrupts > 0

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
        before, self.asked = self.asked, True
        if self.workers:
            self.workers.ask()
        if not before:
            say("stopping: the steps that are done are saved; Ctrl-C again leaves at once")
