"""The trainer's end of the process that sends to trackers."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

from distrain_trainer.console import say, warn
from distrain_trainer.reporting.trackers.api import Status
from distrain_trainer.reporting.trackers.choice import QUIET
from distrain_trainer.reporting.trackers.feed import PATIENCE

SECONDS_TO_LEAVE = 5.0


def send_to_trackers(folder: Path, attempt: int, kept: int) -> "Sender | None":
    """Begins to send the run in `folder` to its trackers. None where this machine cannot start another process.

    attempt: its number. kept: steps up to this one will not be computed again.
    """
    try:
        return Sender(folder, attempt, kept)
    except OSError as error:
        warn(f"nothing is sent to trackers ({error}); the run is not affected, distrain track {folder} sends it later")
        return None


class Sender:
    """A process that sends a run to its trackers. It can neither stop nor slow the one that trains."""

    def __init__(self, folder: Path, attempt: int, kept: int):
        self._folder, self._ended = folder, False
        module = "distrain_trainer.reporting.trackers"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder), str(attempt), str(kept)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=QUIET | os.environ,
            start_new_session=True,  # Ctrl-C is for the one that trains
            text=True,
        )
        self._relay = Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def end(self, status: Status) -> None:
        """Has it send what is left, waits for that, but not long, and ends it."""
        self._ended = True
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.write(f"{status}\n")
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE[status] + SECONDS_TO_LEAVE)
        self.leave()

    def leave(self) -> None:
        """Ends it as it is."""
        self._ended = True
        self._process.kill()
        self._relay.join(SECONDS_TO_LEAVE)

    def _pass_on(self) -> None:
        """Says what it has to say."""
        assert self._process.stdout
        for line in self._process.stdout:
            level, text = json.loads(line)
            (warn if level == "warning" else say)(text)
        if not self._ended:
            warn(
                f"the process that sends to trackers has ended with {self._process.wait()}; the run is not affected, "
                f"and distrain track {self._folder} sends the rest later"
            )
