"""The first process of a node: meets the other nodes, starts the workers, passes signals on, and says how it ended.

A run is a sequence of attempts. Node 0 begins each of them, hears how it ends and decides what follows; the others do
as it says. The workers of an attempt end with it, at once, since nothing that they have not published counts. Then
all meet again, with whoever has taken the place of a lost node, until the run is finished, an error is one that a
restart cannot mend, or `checkpoint.max_restarts` is used up.

Ctrl-C or SIGTERM asks the workers of all nodes to save and leave (143); a second Ctrl-C leaves at once (130).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain_trainer.console import debug, say, warn
from distrain_trainer.errors import (
    DistrainError,
    FailureReport,
    LostPeer,
    RunFailed,
    Stopped,
    Superseded,
    is_retried,
)
from distrain_trainer.hardware.machine import versions
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.preflight import check_volume
from distrain_trainer.launch.rendezvous import AttemptOutcome, Coordinator, Member, Start, open_store
from distrain_trainer.launch.signals import Requests
from distrain_trainer.launch.workers import Work, Workers
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.storage.attempts import Attempts, begin_attempt, end_attempt, read_attempts
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.lock import FolderLock
from distrain_trainer.storage.previous import put_back, remove_previous
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.storage.run_folder import check_writable, is_finished, read_claim

TICK = 0.05
LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most; the first restart comes after one, and each next after twice the time."""


@dataclass
class Job:
    """What is to be run on this node.

    cluster: what the cluster says about this machine. work: the worker program. preload: imports what it needs, which
    takes seconds. arguments: its arguments. resume: whether the folder may hold this run. by_hand: a person has asked
    to resume, so that earlier failures do not count. lock: of the folder, on node 0. previous: what the run that is in
    the folder will be called there once this one begins to write; None where none is to be replaced.
    """

    node: Node
    cluster: ClusterEnvironment
    settings: Settings
    work: Work
    preload: Callable[[], None]
    arguments: list[str]
    resume: bool
    by_hand: bool
    lock: FolderLock | None = None
    previous: str | None = None

    @property
    def folder(self) -> Path:
        return Path(self.settings.output_dir)

    @property
    def replaces(self) -> bool:
        """Whether the run that this one replaces is still in its place."""
        return self.previous is not None and not (self.folder / self.previous).exists()

    def holds_run(self) -> bool:
        """Whether there is something in the folder to continue. Raises DistrainError."""
        return read_claim(self.settings, self.resume, self.replaces).stored is not None

    def finished(self) -> bool:
        """Whether the run has come to the end of the schedule that is asked for. Raises DistrainError."""
        return is_finished(read_claim(self.settings, self.resume, self.replaces))

    def check_lock(self) -> None:
        """Raises Superseded where another node 0 of this run has taken the folder over."""
        if self.lock is not None and (other := self.lock.check()):
            raise Superseded(f"{self.folder} was taken over by {other.title}; this process leaves it alone")

    def facts(self) -> dict[str, Any]:
        """What must be the same on all nodes."""
        return facts(self.node, self.cluster, self.settings)


def facts(node: Node, cluster: ClusterEnvironment, settings: Settings) -> dict[str, Any]:
    """What must be the same on all nodes of a run."""
    values = json.dumps(flat(settings), sort_keys=True)
    return {f"the version of {name}": number for name, number in versions().items()} | {
        "the hash of distrain's code": _hash_of_code(),
        "the number of nodes": node.count,
        "the number of processes": node.processes,
        "the hash of the settings": cluster.settings_hash or hashlib.sha256(values.encode()).hexdigest()[:12],
    }


def _hash_of_code() -> str:
    """Tells two builds of one version apart."""
    content = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted(folder.rglob("*.py")):
        content.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return content.hexdigest()[:12]


def supervise(job: Job, requests: Requests) -> int:
    """Runs this node's part of a run to its end and returns 0. Raises DistrainError, with the code to leave with."""
    store, after = None, 0
    export_metrics(job.folder, job.cluster.metrics_port)
    if job.finished():
        if job.lock is not None:
            remove_previous(job.folder)
        say(f"the run in {job.folder} is finished; give it more schedule.epochs to train on")
        return 0
    while True:
        try:
            if requests.asked:
                raise Stopped("stopped before the first step; start the same command again")
            store = store or open_store(job.node, lambda: requests.asked)
            if job.node.first:
                outcome = _coordinate(job, store, requests)
            else:
                outcome, after = _take_part(job, store, after, requests)
        except LostPeer as lost:
            outcome = AttemptOutcome(FailureReport(lost.exit_code, str(lost)), again=True)
            store, after = None, 0
        except Stopped as stopped:
            outcome = AttemptOutcome(FailureReport(stopped.exit_code, str(stopped)), again=True)
        job.by_hand, job.resume = False, True
        if outcome.failure is None or job.finished():
            return 0
        job.check_lock()
        if requests.asked or not outcome.again:
            raise RunFailed(outcome.failure)
        warn(f"{outcome.failure.sentence}; starting again")
        requests.pause(_pause(job))


def export_metrics(folder: Path, port: int | None) -> None:
    """Starts the Prometheus endpoint where the cluster has a port for it; a run does without one."""
    if port is None:
        return
    from distrain_trainer.reporting.prometheus import export

    try:
        export(folder, port)
    except OSError as error:
        warn(f"no Prometheus endpoint at port {port}: {error}")


def _coordinate(job: Job, store: Any, requests: Requests) -> AttemptOutcome:
    """Node 0's part in an attempt."""
    number = _read(job).attempt + 1
    coordinator = Coordinator(job.node, store, number, job.facts(), lambda: requests.asked)
    try:
        coordinator.gather()
        job.check_lock()
        if job.replaces:
            with_retries("cannot be written", job.folder, lambda: put_back(job.folder))
        resume = job.holds_run()
        begun = begin_attempt(job.folder, job.settings.checkpoint.max_restarts, forgive=job.by_hand)
    except DistrainError as error:
        again = isinstance(error, Stopped | Superseded)
        outcome = AttemptOutcome(FailureReport(error.exit_code, str(error)), again)
        coordinator.close(outcome)
        return outcome
    start = coordinator.start(begun.attempt, begun.token, resume)
    with _workers(job, start, requests) as workers:
        cause, told = None, False
        while not (workers.over() and not workers.failures and coordinator.members_finished()):
            if workers.over() and workers.failures and not told:
                told = True
                coordinator.fail(_report(job, start.attempt, workers), asked=requests.asked)
            if cause := coordinator.cause():
                break
            if taken := job.lock and job.lock.lost_to():
                cause = 0, FailureReport(Superseded.exit_code, f"node 0 was replaced by {taken.title}")
                break
            time.sleep(TICK)
    outcome = AttemptOutcome(None)
    if cause is not None and job.lock and job.lock.check():
        outcome = AttemptOutcome(cause[1], again=True)  # attempt.json is no longer ours
    elif cause is not None:
        index, report = cause
        outcome = _outcome(report, job.node, coordinator.title(index))
        # Without the machine's name: the same failure may follow the run to another.
        end_attempt(job.folder, None if report.exit_code == Stopped.exit_code else report.sentence)
    coordinator.close(outcome)
    return outcome


def _take_part(job: Job, store: Any, after: int, requests: Requests) -> tuple[AttemptOutcome, int]:
    """Any other node's part in an attempt, and the attempt's number."""
    member = Member(job.node, store, after, job.facts(), lambda: requests.asked)
    start = member.wait_for_start()
    if start is None:
        assert member.outcome is not None
        member.close(finished=False)
        return member.outcome, member.number
    outcome, told = None, False
    with _workers(job, start, requests) as workers:
        try:
            check_volume(lambda: read_attempts(job.folder).token, start.token, job.folder)
            check_writable(job.folder)
        except DistrainError as error:
            told = True
            member.fail(FailureReport(error.exit_code, str(error), node=job.node.name or None), asked=False)
            workers.kill()
        while outcome is None:
            if workers.over() and not workers.failures:
                outcome = AttemptOutcome(None)
            elif workers.over() and not told:
                told = True
                member.fail(_report(job, start.attempt, workers), asked=requests.asked)
            else:
                member.check_coordinator()
                outcome = member.outcome
            time.sleep(TICK)
    member.close(finished=outcome.failure is None)
    return outcome, member.number


@contextmanager
def _workers(job: Job, start: Start, requests: Requests) -> Iterator[Workers]:
    """The workers of an attempt; none is left afterwards."""
    arguments = [*job.arguments, "--attempt", str(start.attempt), *(["--resume"] if start.resume else [])]
    if job.previous is not None and job.replaces:
        arguments += ["--previous", job.previous]
    log = job.folder / "logs" / f"node-{job.node.index}.attempt-{start.attempt}.log"
    if job.node.name:
        with suppress(OSError):
            log.parent.mkdir(exist_ok=True)
            with log.open("a") as file:
                file.write(f"attempt {start.attempt} on {job.node.title}\n")
    job.preload()
    debug(f"attempt {start.attempt} starts its workers, whose process group meets at port {start.port}")
    with TemporaryDirectory(prefix="distrain-") as scratch:
        workers = requests.workers = Workers(job.work, arguments, job.node, start.port, log, Path(scratch))
        if requests.asked:
            workers.ask()
        try:
            yield workers
        finally:
            requests.workers = None
            workers.kill()
            workers.wait()


def _report(job: Job, attempt: int, workers: Workers) -> FailureReport:
    """How this node's workers failed, also written to `errors/`."""
    report = workers.cause()
    assert report is not None
    folder = job.folder / "errors" / f"attempt-{attempt}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"node-{job.node.index}.json", asdict(report) | {"time": time.time()})
    except OSError as failed:
        warn(f"{folder} cannot be written: {failed.strerror}")
    return report


def _outcome(report: FailureReport, node: Node, title: str) -> AttemptOutcome:
    """What follows from a failure on the node with this title. node: this one."""
    where = f"{title}: "
    if node.count == 1 and (not node.name or not is_retried(report.exit_code) or report.exit_code == Stopped.exit_code):
        where = ""
    elif report.exit_code == Stopped.exit_code:
        where = f"{title} was asked to leave: "
    return AttemptOutcome(replace(report, sentence=f"{where}{report.sentence}"), again=is_retried(report.exit_code))


def _pause(job: Job) -> float:
    """Seconds to wait before the next attempt; a member waits for the coordinator instead."""
    if not job.node.first:
        return 0.0
    record = _read(job)
    return 0.0 if record.excused else min(2.0**record.spent, LONGEST_PAUSE)


def _read(job: Job) -> Attempts:
    return with_retries("cannot be read", job.folder, lambda: read_attempts(job.folder))
