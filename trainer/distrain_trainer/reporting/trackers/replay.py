"""`distrain track`: sends a run that is not under way to its trackers, or what they lack of it."""

import json
import os
from pathlib import Path
from typing import get_args

from distrain_trainer.console import say
from distrain_trainer.errors import ServiceAway, SettingsError
from distrain_trainer.reporting.trackers.api import Status, TrackedRun
from distrain_trainer.reporting.trackers.choice import QUIET, check_trackers
from distrain_trainer.reporting.trackers.feed import Feed
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import Tracking
from distrain_trainer.storage.attempts import Fence, current_attempt
from distrain_trainer.storage.layout import read_record
from distrain_trainer.storage.lock import hold
from distrain_trainer.storage.metrics_log import read_metrics


def track(path: str, flags: dict[str, str]) -> None:
    """Sends what its trackers lack of the run in a folder. flags: settings of `tracking` to use instead of the run's.

    Raises SettingsError, ServiceAway where a tracker has not taken it.
    """
    folder = Path(path)
    tracking = tracking_of(folder, flags)
    check_trackers(tracking)
    os.environ.update(QUIET | os.environ)
    problems: list[str] = []
    with hold(folder):
        run = TrackedRun.read(folder, tracking)
        lines = read_metrics(folder / "metrics.jsonl")
        newest, status = max((line["step"] for line in lines), default=0), status_of(folder)
        fence = Fence(folder, current_attempt(folder))
        feeds = [
            Feed(name, run, newest, fence, lambda name, reason: problems.append(f"{name} ({reason})"))
            for name in tracking.trackers
        ]
        for feed in feeds:
            feed.start()
            feed.end(status)
        for feed in feeds:
            feed.thread.join()
            if feed.done:
                say(f"{feed.name} has everything of this run; steps sent: {feed.sent:,}")
    if problems:
        raise ServiceAway(f"not sent to {' and '.join(problems)}; the same command tries again")


def tracking_of(folder: Path, flags: dict[str, str]) -> Tracking:
    """The settings of `tracking` of a run, with others in their place. Raises SettingsError."""
    record = read_record(folder)
    if record is None:
        raise SettingsError(f"{folder} holds no run; name the output_dir of one")
    if other := next((name for name in flags if not name.startswith("tracking.")), None):
        raise SettingsError(f"--{other} is not a setting of tracking, and distrain track takes no others")
    base = flat(Settings.model_validate(record["settings"]))
    tracking = read_settings(None, flags, environment={}, base=base).tracking
    if not tracking.trackers:
        raise SettingsError(f"the run in {folder} has no trackers; name one with --tracking.trackers")
    return tracking


def status_of(folder: Path) -> Status:
    """How the run has ended; one that was killed may go on, as one that was stopped."""
    try:
        status = json.loads((folder / "training_info.json").read_text())["status"]
    except (OSError, ValueError, KeyError):
        return "stopped"
    return next((known for known in get_args(Status) if known == status), "stopped")
