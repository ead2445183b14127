"""The attempts at a run, counted on its volume: when one begins, because one that is killed cannot say so.

`attempt.json` outlives every pod. A restart costs one of `checkpoint.max_restarts` unless the attempt was asked to
stop; a new checkpoint gives all of them back.
"""

import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distrain_trainer.errors import RestartsUsedUp
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.storage.retry import patiently

SAME = 3
"""So many times the same failure at the same step is no accident."""


@dataclass(frozen=True)
class Failure:
    """How an attempt ended. step: the newest that it had done."""

    step: int
    sentence: str


@dataclass
class Attempts:
    """What `attempt.json` holds.

    attempt: number of the newest, 0 before the first. token: random, so that a node can tell whether it sees the same
    volume as node 0. checkpoint: step of the newest checkpoint when the attempt began, -1 for none. spent: restarts
    since then. excused: the newest attempt was asked to stop and costs nothing. failures: since that checkpoint.
    """

    attempt: int = 0
    token: str = ""
    checkpoint: int = -1
    spent: int = 0
    excused: bool = True
    failures: list[Failure] = field(default_factory=list)


def read_attempts(folder: Path) -> Attempts:
    """The attempts at the run in `folder` so far. Raises OSError."""
    try:
        values = json.loads((folder / "attempt.json").read_text())
    except FileNotFoundError:
        return Attempts()
    return Attempts(**values | {"failures": [Failure(**failure) for failure in values["failures"]]})


def begin_attempt(folder: Path, max_restarts: int | None = None, forgive: bool = False) -> Attempts:
    """Writes down that an attempt begins.

    max_restarts: without a new checkpoint, None for any number. forgive: earlier failures do not count. Raises
    RestartsUsedUp (69) where none is left to try, VolumeError, VolumeLost.
    """
    found, newest = patiently("cannot be read", folder, lambda: (read_attempts(folder), _newest_checkpoint(folder)))
    if forgive or newest > found.checkpoint:
        found.checkpoint, found.spent, found.failures = newest, 0, []
    elif not found.excused:
        found.spent += 1
    last = found.failures[-SAME:]
    if max_restarts is not None and len(last) == SAME and len(set(last)) == 1:
        raise RestartsUsedUp(f"failed {SAME} times at step {last[0].step} in the same way: {last[0].sentence}")
    if max_restarts is not None and found.spent > max_restarts:
        ended = f"; the last one: {last[-1].sentence}" if last else "; the last ones were killed"
        raise RestartsUsedUp(
            f"restarted {max_restarts} times without a new checkpoint (checkpoint.max_restarts){ended}"
        )
    found.attempt, found.token, found.excused = found.attempt + 1, secrets.token_hex(8), False
    patiently("cannot be written", folder, lambda: write_json(folder / "attempt.json", asdict(found)))
    return found


def end_attempt(folder: Path, failure: str | None) -> None:
    """Writes down how the newest attempt ended: with a failure, or because it was asked to stop (None)."""
    with suppress(OSError):  # of a full disk: the attempt then counts as one that was killed
        found = read_attempts(folder)
        found.excused = failure is None
        if failure is not None:
            step = max((line.get("step", 0) for line in read_metrics(folder / "metrics.jsonl")), default=0)
            found.failures = [*found.failures, Failure(step, failure)][-SAME:]
        write_json(folder / "attempt.json", asdict(found))


def current_attempt(folder: Path) -> int:
    """The number of the newest attempt, 0 before the first."""
    return read_attempts(folder).attempt


def _newest_checkpoint(folder: Path) -> int:
    steps = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    return max((int(step) for step in steps if step.isdigit()), default=-1)
