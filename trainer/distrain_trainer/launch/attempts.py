"""A node's part in a run: attempt after attempt, until the run is finished or cannot be.

Node 0 begins each attempt, hears how it ends and decides what follows; the others do as it says. The workers of an
attempt end with it, at once, since nothing that they have not published counts. Then all meet again, with whoever has
taken the place of a lost node, until the run is finished, an error is one that a restart cannot mend, or
`checkpoint.max_restarts` is used up. Whoever waits looks for the finished mark, and whoever has been superseded leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from distrain_trainer.errors import (
    DistrainError,
    FailureReport,
    LostPeer,
    RestartsUsedUp,
    RunFailed,
    Stopped,
    Superseded,
    VolumeError,
    VolumeLost,
    is_retried,
)
from distrain_trainer.launch.coordinator import TOLD_EVERY, Cause, Coordinator, Waiting, check, listed, lost
from distrain_trainer.launch.member import Member, next_rendezvous
from distrain_trainer.launch.messages import AttemptOutcome
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.store import Store
from distrain_trainer.launch.surroundings import RunFinished, RunningWorkers, Surroundings
from distrain_trainer.storage.attempts import Attempts

TICK = 0.05
LOOKED_EVERY = 10.0
"""Seconds between two looks at the volume, for an attempt that another process has begun."""
SEEN_WITHIN = 60.0
"""Seconds within which what one node has written is seen by all, on a network file system."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most; the first restart comes after one, and each next after twice the time."""
LONGEST_WAIT = 300.0
"""The same where what failed passes by itself and spends no restart, such as a volume that does not answer."""


@dataclass
class Progress:
    """What a node remembers between attempts. number: of the last rendezvous; one that was in vain has a number too, so
    that nobody waits for it again. begun: as the coordinator, the last attempt. left_out: as the coordinator, the nodes
    that were not there at its end, and took no part. in_vain: tries in a row that did not come to start workers.
    waiting: since when these have failed by what passes, such as a volume that does not answer; None where the last one
    has not."""

    store: Store | None = None
    number: int = 0
    begun: Attempts | None = None
    left_out: set[int] = field(default_factory=set)
    in_vain: int = 0
    waiting: float | None = None


def take_part(around: Surroundings) -> Waiting[None]:
    """Runs this node's part to the end of the run. Raises DistrainError, with the code to leave with."""
    progress = Progress()
    while True:
        tries = progress.in_vain
        progress.in_vain += 1
        try:
            check(around)
            if around.node.count > 1 and progress.store is None:
                progress.store = yield from _connect(around)
            outcome = yield from (_coordinate if around.node.first else _follow)(around, progress)
        except RunFinished:
            return
        except LostPeer as error:
            outcome = AttemptOutcome(FailureReport(error.exit_code, str(error)), again=True)
            progress.store, progress.number = None, 0
        except (VolumeLost, Stopped) as error:
            outcome = AttemptOutcome(FailureReport.of(error), again=True)
        if outcome.failure is None:
            if (yield from _finished(around)):
                return
            outcome = AttemptOutcome(lost("the workers have left and the run is not finished"), again=True)
        around.by_hand = False
        assert outcome.failure is not None
        if around.asked() or not outcome.again:
            if _finished_now(around):
                return
            asked = around.asked() and outcome.again  # whatever failed meanwhile is for the next attempt to meet
            raise RunFailed(replace(outcome.failure, exit_code=Stopped.exit_code) if asked else outcome.failure)
        _check_patience(around, progress, outcome.failure)
        around.warn(f"{outcome.failure.sentence}; starting again")
        yield from _pause(around, progress, tries, outcome.failure)


def _check_patience(around: Surroundings, progress: Progress, failure: FailureReport) -> None:
    """Raises RestartsUsedUp where no attempt could begin for too long, by what passes: it is not on the volume, which
    may be what has failed. failure: of the last try."""
    if not (failure.passes and progress.in_vain):
        progress.waiting = None
        return
    progress.waiting = around.now() if progress.waiting is None else progress.waiting
    waited = around.now() - progress.waiting
    if waited > around.max_wait:
        raise RestartsUsedUp(
            f"waited {waited / 3600:.3g} h (checkpoint.max_wait_hours) for what does not pass: {failure.sentence}"
        )


def _connect(around: Surroundings) -> Waiting[Store]:
    """Node 0's store, waited for however long it takes. Raises Stopped, RunFinished, and LostPeer on node 0."""
    told = around.now()
    while True:
        check(around)
        try:
            return around.connect()
        except LostPeer as error:
            if around.node.first:
                raise
            if around.now() - told > TOLD_EVERY:
                told = around.now()
                around.say(f"waiting for node 0: {error}")
        yield 0.5


def _coordinate(around: Surroundings, progress: Progress) -> Waiting[AttemptOutcome]:
    """Node 0's part in an attempt."""
    found = around.attempts()
    _check_ours(found, progress.begun)
    progress.number = max(progress.number, found.attempt) + 1
    coordinator = Coordinator(around, progress.store, progress.number)
    try:
        # The experiment is decided by all nodes together: only once it is written down may some of them go on.
        elastic = around.min_nodes is not None and around.holds_run()
        fewest = around.min_nodes if elastic else None
        yield from coordinator.gather(fewest, around.patience, progress.left_out)
        check(around)
        resume = around.holds_run()
        begun = progress.begun = around.begin_attempt(found, coordinator.nodes)
    except RunFinished:
        yield from coordinator.close(AttemptOutcome(None))
        raise
    except DistrainError as error:
        outcome = AttemptOutcome(FailureReport.of(error), isinstance(error, Stopped | Superseded | VolumeLost))
        yield from coordinator.close(outcome)
        if isinstance(error, Superseded):
            raise
        return outcome
    start = coordinator.start(begun.attempt, begun.token, resume, check=begun.attempt == 1 or begun.suspect)
    progress.in_vain = 0
    with around.workers(start) as workers:
        cause = yield from _watch(around, coordinator, workers, begun)
        progress.left_out = coordinator.absent()
    outcome = AttemptOutcome(None)
    if cause is not None:
        outcome = _outcome(cause, around.node, coordinator.title(cause.index))
        # Without the machine's name: the same failure may follow the run to another.
        around.end_attempt(begun, None if cause.asked or cause.report.regroups else cause.report)
    yield from coordinator.close(outcome)
    return outcome


def _watch(
    around: Surroundings, coordinator: Coordinator, workers: RunningWorkers, begun: Attempts
) -> Waiting[Cause | None]:
    """Waits for the end of an attempt that is running: why it failed, None where all workers have finished.

    Where a node is back that took no part, its workers leave at the next checkpoint. Raises Superseded.
    """
    looked, told, back = around.now(), False, list[int]()
    while True:
        over = workers.over()
        report = workers.cause()
        returned = coordinator.returned()
        if returned != back:
            back = returned
            around.say(_back_sentence(back))
            workers.regroup(bool(back))
        if over and report is None and coordinator.members_finished():
            return None
        if over and report is not None and not told:
            told = True
            if not report.regroups:
                around.keep_report(begun.attempt, report, workers)
            coordinator.fail(report, asked=around.asked())
        if cause := coordinator.cause():
            return cause
        around.check_lock()
        if around.now() - looked > LOOKED_EVERY:
            looked = around.now()
            _check_ours(_unless_volume_fails(around.attempts, begun), begun)
        yield TICK


def _back_sentence(back: list[int]) -> str:
    if not back:
        return "the node that was back is gone again"
    one = len(back) == 1
    return f"{listed(back)} {'is' if one else 'are'} back and take{'s' * one} part from the next checkpoint on"


def _follow(around: Surroundings, progress: Progress) -> Waiting[AttemptOutcome]:
    """Any other node's part in an attempt."""
    assert progress.store is not None
    number = yield from next_rendezvous(around, progress.store, progress.number)
    member = Member(around, progress.store, number)
    try:
        start = yield from member.wait_for_start()
        progress.number = number
        if start is None:
            assert member.outcome is not None
            if member.left_out:
                progress.in_vain = 0
            return member.outcome
        progress.in_vain = 0
        with around.workers(start) as workers:
            seen_by, told = around.now() + SEEN_WITHIN, False
            seen = False
            while True:
                over = workers.over()
                report = workers.cause()
                if not seen and report is None:
                    seen, trouble = _sees(around, start.token, around.now() > seen_by)
                    if trouble is not None:
                        workers.kill()
                        report = trouble
                if over and report is None and seen:
                    member.finish()
                    return AttemptOutcome(None)
                if (over or not seen) and report is not None and not told:
                    told = True
                    if not report.regroups:
                        around.keep_report(start.attempt, report, workers)
                    member.fail(report, asked=around.asked())
                if member.outcome is not None:
                    return member.outcome
                member.check_coordinator()
                yield TICK
    finally:
        member.close()


def _check_ours(found: Attempts, begun: Attempts | None) -> None:
    """Makes sure that the volume still shows the attempt that this process has begun. Raises Superseded, VolumeError.

    found: what it shows. begun: None where this process has begun none.
    """
    if begun is None or found.token == begun.token:
        return
    if found.attempt <= begun.attempt:
        raise VolumeError(
            f"output_dir no longer shows attempt {begun.attempt}, which has begun there; bring back the volume with "
            "the run's files, or start anew in another output_dir"
        )
    raise Superseded(f"attempt {found.attempt} was begun by another process, which has taken the place of this one")


def _unless_volume_fails(look: Callable[[], Attempts], otherwise: Attempts) -> Attempts:
    try:
        return look()
    except VolumeLost:
        return otherwise


def _sees(around: Surroundings, token: str, late: bool) -> tuple[bool, FailureReport | None]:
    """Whether this node sees what node 0 wrote, and what is wrong where it is too late for that."""
    try:
        if around.attempts().token == token:
            around.check_writable()
            return True, None
        error: DistrainError = VolumeError(
            "output_dir is not the folder that node 0 writes to; give all nodes the same ReadWriteMany volume"
        )
    except VolumeLost as failed:
        error = failed
    except DistrainError as failed:
        error, late = failed, True
    return False, FailureReport(error.exit_code, str(error), node=around.node.name or None) if late else None


def _finished(around: Surroundings) -> Waiting[bool]:
    """Whether the run is finished; the mark may take a while to be seen here."""
    deadline = around.now() + SEEN_WITHIN
    while not _finished_now(around):
        if around.now() > deadline or around.asked():
            return False
        yield 1.0
    return True


def _finished_now(around: Surroundings) -> bool:
    try:
        return around.finished()
    except DistrainError:
        return False


def _outcome(cause: Cause, node: Node, title: str) -> AttemptOutcome:
    """What follows from a failure on the node with this title. node: this one."""
    report, again = cause.report, is_retried(cause.report.exit_code)
    where = f"{title}: "
    if cause.asked:
        where = f"{title} was asked to leave: " if node.count > 1 else ""
    elif report.regroups or (node.count == 1 and (not node.name or not again)):
        where = ""
    return AttemptOutcome(replace(report, sentence=f"{where}{report.sentence}"), again)


def pause_after(found: Attempts) -> float:
    """Seconds between an attempt and the next."""
    if found.passing:
        return min(2.0**found.passing, LONGEST_WAIT)
    return 0.0 if found.excused else min(2.0**found.spent, LONGEST_PAUSE)


def _pause(around: Surroundings, progress: Progress, tries: int, failure: FailureReport) -> Waiting[None]:
    """Waits before the next attempt, but not after being asked to leave. tries: in vain before this one.

    A member waits for the coordinator instead, unless it has come to nothing before. failure: of the last attempt.
    """
    seconds, since = min(2.0**tries, LONGEST_PAUSE) if progress.in_vain else 0.0, None
    if around.node.first and not progress.in_vain:
        found = _unless_volume_fails(around.attempts, Attempts(spent=tries))
        seconds, since = pause_after(found), found.waiting_since
    elif progress.waiting is not None:
        since = around.time() - (around.now() - progress.waiting)
    if around.node.first:
        around.tell_waiting(failure, since)
    until = around.now() + seconds
    while around.now() < until and not around.asked():
        yield TICK
