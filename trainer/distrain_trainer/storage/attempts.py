"""The attempts at a run, recorded on its volume when each begins: one that is killed cannot record its own end.

`attempt.json` outlives every pod. A restart costs one of `checkpoint.max_restarts` unless the attempt was asked to
stop; a new checkpoint restores the whole budget.
"""

import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distrain_trainer.errors import RestartsUsedUp
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.layout import checkpoint_step, published_checkpoints
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.storage.retry import with_retries

SAME_FAILURES = 3
"""The same failure at the same step, so many times in a row, is not worth another restart."""


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that failed. step: the newest that it had done."""

    step: int
    sentence: str


@dataclass
class Attempts:
    """The content of `attempt.json`.

    attempt: number of the newest attempt, 0 before the first. token: random, so that a node can tell whether it sees
    the same volume as node 0. checkpoint: step of the newest checkpoint when the attempt began, -1 if there was none.
    spent: restarts since that checkpoint. excused: the newest attempt was asked to stop and costs no restart.
    failures: the last ones since that checkpoint.
    """

    attempt: int = 0
    token: str = ""
    checkpoint: int = -1
    spent: int = 0
    excused: bool = True
    failures: list[FailedAttempt] = field(default_factory=list)


def read_attempts(folder: Path) -> Attempts:
    """The attempts at the run in `folder` so far. Raises OSError."""
    try:
        values = json.loads((folder / "attempt.json").read_text())
    except FileNotFoundError:
        return Attempts()
    return Attempts(**values | {"failures": [FailedAttempt(**failure) for failure in values["failures"]]})


def begin_attempt(folder: Path, max_restarts: int | None = None, forgive: bool = False) -> Attempts:
    """Records that an attempt begins.

    max_restarts: restarts without a new checkpoint, None for no limit. forgive: earlier failures do not count. Raises
    RestartsUsedUp (69) if the budget is spent, VolumeError, VolumeLost.
    """
    found, newest = with_retries("cannot be read", folder, lambda: (read_attempts(folder), _newest_checkpoint(folder)))
    if forgive or newest != found.checkpoint:  # also after another run has been replaced
        found.checkpoint, found.spent, found.failures = newest, 0, []
    elif not found.excused:
        found.spent += 1
    last = found.failures[-SAME_FAILURES:]
    if max_restarts is not None and len(last) == SAME_FAILURES and len(set(last)) == 1:
        raise RestartsUsedUp(f"failed {SAME_FAILURES} times at step {last[0].step} in the same way: {last[0].sentence}")
    if max_restarts is not None and found.spent > max_restarts:
        ended = f"; the last one: {last[-1].sentence}" if last else "; the last ones were killed"
        raise RestartsUsedUp(
            f"restarted {max_restarts} times without a new checkpoint (checkpoint.max_restarts){ended}"
        )
    found.attempt, found.token, found.excused = found.attempt + 1, secrets.token_hex(8), False
    with_retries("cannot be written", folder, lambda: write_json(folder / "attempt.json", asdict(found)))
    return found


def end_attempt(folder: Path, failure: str | None) -> None:
    """Records how the newest attempt ended: with a failure, or because it was asked to stop (None)."""
    with suppress(OSError):  # on a full disk: the attempt then counts as one that was killed
        found = read_attempts(folder)
        found.excused = failure is None
        if failure is not None:
            step = max((line.get("step", 0) for line in read_metrics(folder / "metrics.jsonl")), default=0)
            found.failures = [*found.failures, FailedAttempt(step, failure)][-SAME_FAILURES:]
        write_json(folder / "attempt.json", asdict(found))


def current_attempt(folder: Path) -> int:
    """The number of the newest attempt, 0 before the first. Raises OSError."""
    return read_attempts(folder).attempt


def _newest_checkpoint(folder: Path) -> int:
    return max(map(checkpoint_step, published_checkpoints(folder)), default=-1)
