"""The process that sends a run's steps to its trackers while it trains: `python -m distrain_trainer.reporting.trackers
FOLDER ATTEMPT KEPT`. Started by `sender`.

It reads one line from stdin: how the run has ended. Where stdin ends before, whoever trains was killed, and so is this.
Sentences for a person go to stdout, as JSON. What packages print goes nowhere.
"""

import json
import os
import select
import sys
import time
from pathlib import Path

from distrain_trainer.console import Level
from distrain_trainer.reporting.trackers.api import Status, TrackedRun
from distrain_trainer.reporting.trackers.feed import PATIENCE, Feed
from distrain_trainer.settings.sections import Tracking
from distrain_trainer.storage.attempts import Fence


def main(folder: Path, attempt: int, kept: int) -> None:
    """Feeds the trackers of the run in `folder` until it has ended."""
    told = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def tell(level: Level, text: str) -> None:
        os.write(told, (json.dumps([level, text]) + "\n").encode())

    def complain(name: str, reason: str) -> None:
        advice = f"the run is not affected, and distrain track {folder} sends it later"
        tell("warning", f"{name} does not take this run ({reason}); {advice}")

    run = TrackedRun.read(folder, pid=os.getppid())
    trackers = Tracking.model_validate(run.settings["tracking"]).trackers
    feeds = [Feed(name, run, kept, Fence(folder, attempt), complain) for name in trackers]
    for feed in feeds:
        feed.start()
    status = heard(run.pid)
    for ended in PATIENCE:
        if status == ended:
            wait(feeds, ended)
    for feed in feeds:
        if feed.done and feed.complained:
            tell("info", f"{feed.name} has everything of this run now")
    os._exit(0)  # without a look at threads that still wait for a tracker


def heard(trainer: int | None) -> str:
    """How the run has ended; empty where its trainer was killed, even if its own children hold the pipe open."""
    while not select.select([sys.stdin], [], [], 1.0)[0]:
        if os.getppid() != trainer:
            return ""
    return sys.stdin.readline().strip()


def wait(feeds: list[Feed], status: Status) -> None:
    """Tells the feeds that the run has ended, and waits while they get on with what is left, but not long."""
    for feed in feeds:
        feed.end(status)
    deadline = time.monotonic() + PATIENCE[status]
    while any(feed.worth_waiting_for for feed in feeds) and time.monotonic() < deadline:
        time.sleep(0.02)
    if status != "stopped":  # else it goes on where it is
        for feed in feeds:
            feed.give_up()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
