"""The attempts at a run, recorded on its volume when each begins: one that is killed cannot record its own end.

`attempt.json` outlives every pod. A restart costs one of `checkpoint.max_restarts` unless the attempt was asked to
stop; a new checkpoint restores the whole budget, and so does an error that no restart mends, since a person has to.
"""

import json
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from distrain_trainer.errors import FailureReport, RestartsUsedUp, Superseded, is_of_a_machine, is_retried
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.layout import checkpoint_step, published_checkpoints
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.storage.retry import with_retries

FILE = "attempt.json"
DAMAGED = "damaged"
MARK = f"{FILE}."
"""Before the number of an attempt that is being begun: a file that only one process can create."""
SECONDS_TO_BEGIN = 120.0
"""How long it may be there."""
TRACES = (f"{MARK}[0-9]*", "tmp.*.*", "errors/attempt-*", "logs/node-*.attempt-*.log")
"""What attempts leave, each with the number of its attempt at the end."""
SECONDS_OF_TRUST = 5.0
"""How long a look at `attempt.json` holds for what is written often, such as metrics.jsonl."""
SAME_FAILURES = 3
"""The same failure at the same step, so many times in a row, is not worth another restart."""


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that failed. step: the newest that it had done."""

    step: int
    sentence: str


@dataclass(frozen=True)
class Attempts:
    """The content of `attempt.json`.

    attempt: number of the newest attempt, 0 before the first. token: random, so that a node can tell whether it sees
    the same volume as node 0. checkpoint: step of the newest checkpoint when the attempt began, -1 if there was none.
    spent: restarts since that checkpoint. excused: the newest attempt costs no restart. failures: the last ones since
    that checkpoint that were the run's own. passing: attempts in a row that a fault ended which passes by itself.
    waiting_since: when the first of them ended, in seconds since 1970. nodes: indices of those that take part in the
    newest attempt, empty where the launcher does not say. suspect: whether a machine has ended the newest attempt that
    has ended, so that all are checked before the next.
    """

    attempt: int = 0
    token: str = ""
    checkpoint: int = -1
    spent: int = 0
    excused: bool = True
    failures: list[FailedAttempt] = field(default_factory=list)
    passing: int = 0
    waiting_since: float | None = None
    nodes: list[int] = field(default_factory=list)
    suspect: bool = False


def read_attempts(folder: Path) -> Attempts:
    """The attempts at the run in `folder` so far.

    A damaged file is an earlier attempt's bad luck: their number is then taken from what they left. Raises OSError.
    """
    try:
        values = json.loads((folder / FILE).read_text())
        known = {name: values[name] for name in values if name in Attempts.__dataclass_fields__}
        return Attempts(**known | {"failures": [FailedAttempt(**failure) for failure in values["failures"]]})
    except FileNotFoundError:
        return Attempts()
    except (ValueError, TypeError, KeyError, AttributeError):
        return Attempts(attempt=_newest_trace(folder), token=DAMAGED)


def begin_attempt(
    folder: Path,
    max_restarts: int | None = None,
    forgive: bool = False,
    after: Attempts | None = None,
    max_wait_hours: float | None = None,
    nodes: Sequence[int] = (),
) -> Attempts:
    """Records that an attempt begins.

    max_restarts: restarts without a new checkpoint, None for no limit. forgive: earlier failures do not count. after:
    what was found before; Superseded where another process has begun an attempt since. max_wait_hours: how long faults
    that pass may last. nodes: indices of those that take part, empty where the launcher does not say. Raises
    RestartsUsedUp (69) if the budget is spent, VolumeError, VolumeLost.
    """
    found, newest = with_retries("cannot be read", folder, lambda: (read_attempts(folder), _newest_checkpoint(folder)))
    if after is not None and found.token != after.token:
        raise Superseded(f"attempt {found.attempt} was begun by another process, which has taken the place of this one")
    begun = following(found, newest, forgive, nodes)
    check_budget(begun, max_restarts, max_wait_hours)
    with_retries("cannot be written", folder, lambda: _begin(folder, begun, found))
    return begun


def following(found: Attempts, newest: int, forgive: bool = False, nodes: Sequence[int] = ()) -> Attempts:
    """The attempt that begins after what was found. newest: step of the newest checkpoint, -1 if there is none.

    nodes: indices of those that take part. To go on without nodes that were lost costs no restart.
    """
    begun = replace(found, attempt=found.attempt + 1, token=secrets.token_hex(8), excused=False, nodes=list(nodes))
    if forgive or newest != found.checkpoint:  # also after another run has been replaced
        return replace(begun, checkpoint=newest, spent=0, failures=[], passing=0, waiting_since=None)
    fewer = bool(nodes) and set(nodes) < set(found.nodes)
    return replace(begun, spent=found.spent + (not found.excused and not fewer))


def _begin(folder: Path, begun: Attempts, before: Attempts) -> None:
    """Takes an attempt's number, which no other process can take at the same time.

    before: what was found. Raises OSError, Superseded.
    """
    number = begun.attempt
    mark = folder / f"{MARK}{number}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        if time.time() - mark.stat().st_mtime < SECONDS_TO_BEGIN:
            raise Superseded(f"attempt {number} is begun by another process at this moment") from None
        mark.touch()  # whoever began it was killed before it could say so
    try:
        now = read_attempts(folder)
        if now.token != before.token:
            raise Superseded(f"attempt {now.attempt} was begun by another process at this moment")
        if before.token == DAMAGED:
            (folder / FILE).replace(folder / f"{FILE}.damaged")
        write_json(folder / FILE, asdict(begun))
    finally:
        mark.unlink(missing_ok=True)


def check_budget(found: Attempts, max_restarts: int | None, max_wait_hours: float | None = None) -> None:
    """Raises RestartsUsedUp where nothing speaks for another attempt."""
    last = found.failures[-SAME_FAILURES:]
    if max_restarts is not None and len(last) == SAME_FAILURES and len(set(last)) == 1:
        raise RestartsUsedUp(f"failed {SAME_FAILURES} times at step {last[0].step} in the same way: {last[0].sentence}")
    if max_restarts is not None and found.spent > max_restarts:
        ended = f"; the last one: {last[-1].sentence}" if last else "; the last ones were killed or lost"
        raise RestartsUsedUp(
            f"restarted {max_restarts} time{'s' * (max_restarts != 1)} without a new checkpoint "
            f"(checkpoint.max_restarts){ended}"
        )
    waited = time.time() - (found.waiting_since or time.time())
    if max_wait_hours is not None and waited > max_wait_hours * 3600:
        raise RestartsUsedUp(
            f"waited {waited / 3600:.3g} hours for what does not pass (checkpoint.max_wait_hours is {max_wait_hours:g})"
        )


def end_attempt(folder: Path, begun: Attempts, failure: FailureReport | None) -> None:
    """Records how an attempt ended: with a failure, or because the run was asked to stop (None).

    Does nothing where a newer attempt has begun. A failure that follows from a lost node spends a restart, but three of
    them are not the same failure three times; one that passes by itself spends none.
    """
    with suppress(OSError):  # on a full disk: the attempt then counts as one that was killed
        found = read_attempts(folder)
        if found.token == begun.token:
            step = max((line.get("step", 0) for line in read_metrics(folder / "metrics.jsonl")), default=0)
            write_json(folder / FILE, asdict(ended(found, failure, step)))


def ended(found: Attempts, failure: FailureReport | None, step: int) -> Attempts:
    """The attempt after its end, as `end_attempt` records it. step: the newest that was done."""
    if failure is None:
        return replace(found, excused=True, passing=0, waiting_since=None, suspect=False)
    if not is_retried(failure.exit_code):  # whoever starts it again has mended something
        return replace(found, spent=0, excused=True, failures=[], passing=0, waiting_since=None, suspect=False)
    if failure.passes:
        since = found.waiting_since or time.time()
        return replace(found, excused=True, passing=found.passing + 1, waiting_since=since, suspect=False)
    failures = found.failures
    if not failure.follows:
        failures = [*failures, FailedAttempt(step, failure.sentence)][-SAME_FAILURES:]
    suspect = is_of_a_machine(failure)
    return replace(found, excused=False, failures=failures, passing=0, waiting_since=None, suspect=suspect)


def current_attempt(folder: Path) -> int:
    """The number of the newest attempt, 0 before the first. Raises OSError."""
    return read_attempts(folder).attempt


@dataclass
class Fence:
    """Keeps an attempt from writing over a younger one's files, as a node that returns from a long pause would.

    number: of the attempt. What is written between a look and its end may still be too late; that is a moment, and
    never a checkpoint, whose name says whose it is.
    """

    folder: Path
    number: int
    _looked: float = field(default=0.0, init=False)

    def check(self, lately: bool = False) -> None:
        """Raises Superseded where a younger attempt has begun, VolumeError, VolumeLost.

        lately: a look that is some seconds old will do, and one that fails changes nothing.
        """
        if lately and time.monotonic() - self._looked < SECONDS_OF_TRUST:
            return
        self._looked = time.monotonic()
        try:
            newest = current_attempt(self.folder) if lately else self._newest()
        except OSError:
            return
        if newest > self.number:
            raise Superseded(
                f"attempt {newest} at {self.folder} has begun; attempt {self.number} leaves its files alone"
            )

    def _newest(self) -> int:
        return with_retries("cannot be read", self.folder, lambda: current_attempt(self.folder))


def _newest_checkpoint(folder: Path) -> int:
    return max(map(checkpoint_step, published_checkpoints(folder)), default=-1)


def _newest_trace(folder: Path) -> int:
    """The highest number of an attempt of which anything is left in the folder. Raises OSError."""
    names = [path.name for pattern in TRACES for path in folder.glob(pattern)]
    numbers = [re.search(r"(\d+)(\.log)?$", name) for name in names]
    return max((int(match[1]) for match in numbers if match), default=0)
