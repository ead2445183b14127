"""The first process of a node: meets the other nodes, starts the workers, passes signals on, and says how it ended.

A run is a sequence of attempts. Node 0 begins each of them, hears how it ends and decides what follows; the others do
as it says. The workers of an attempt end with it, at once, since nothing that they have not published counts. Then
all meet again, with whoever has taken the place of a lost node, until the run is finished, an error is one that a
restart cannot mend, or `checkpoint.max_restarts` is used up.

Ctrl-C or SIGTERM asks the workers of all nodes to save and leave (143); a second Ctrl-C leaves at once (130).
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError, LostPeer, Stopped
from distrain_trainer.hardware.machine import versions
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.preflight import check_volume
from distrain_trainer.launch.rendezvous import Failure, Guest, Host, Verdict, open_store
from distrain_trainer.launch.signals import Requests
from distrain_trainer.launch.workers import Workers
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.storage.attempts import Attempts, begin_attempt, end_attempt, read_attempts
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.storage.run_folder import is_finished, read_claim

TICK = 0.05
LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most; the first restart comes after one, and each next after twice the time."""


@dataclass
class Job:
    """What is to be run on this node.

    arguments: of the worker program. resume: whether the folder may hold this run. by_hand: a person has asked to
    resume, so that earlier failures do not count.
    """

    node: Node
    settings: Settings
    arguments: list[str]
    resume: bool
    by_hand: bool

    @property
    def folder(self) -> Path:
        return Path(self.settings.output_dir)

    def holds_run(self) -> bool:
        """Whether there is something in the folder to continue. Raises DistrainError."""
        return read_claim(self.settings, self.resume).stored is not None

    def finished(self) -> bool:
        """Whether the run has come to the end of the schedule that is asked for. Raises DistrainError."""
        return is_finished(read_claim(self.settings, self.resume))

    def facts(self) -> dict[str, Any]:
        """What must be the same on all nodes."""
        values = json.dumps(flat(self.settings), sort_keys=True)
        return {f"the version of {name}": number for name, number in versions().items()} | {
            "the hash of distrain's code": _hash_of_code(),
            "the number of nodes": self.node.count,
            "the number of processes": self.node.processes,
            "the hash of the settings": os.environ.get("RUN_SETTINGS_HASH")
            or hashlib.sha256(values.encode()).hexdigest()[:12],
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
    export_metrics(job.folder)
    if job.finished():
        say(f"the run in {job.folder} is finished; give it more schedule.epochs to train on")
        return 0
    while True:
        try:
            if requests.asked:
                raise Stopped("stopped before the first step; start the same command again")
            store = store or open_store(job.node, lambda: requests.asked)
            if job.node.first:
                verdict = _lead(job, store, requests)
            else:
                verdict, after = _follow(job, store, after, requests)
        except LostPeer as lost:
            verdict = Verdict(lost.exit_code, str(lost), again=True)
            store, after = None, 0
        except Stopped as stopped:
            verdict = Verdict(stopped.exit_code, str(stopped), again=True)
        job.by_hand, job.resume = False, True
        if verdict.code == 0 or job.finished():
            return 0
        if requests.asked or not verdict.again:
            ended = DistrainError(verdict.sentence)
            ended.exit_code = verdict.code
            raise ended
        say(f"distrain: {verdict.sentence}; starting again")
        requests.pause(_pause(job))


def export_metrics(folder: Path) -> None:
    """Starts the Prometheus endpoint where RUN_METRICS_PORT asks for it; a run goes on without one."""
    port = os.environ.get("RUN_METRICS_PORT", "")
    if not port:
        return
    from distrain_trainer.reporting.prometheus import export

    try:
        export(folder, int(port))
    except (OSError, ValueError) as error:
        say(f"distrain: no Prometheus endpoint at RUN_METRICS_PORT={port}: {error}")


def _lead(job: Job, store: Any, requests: Requests) -> Verdict:
    """Node 0's part in an attempt."""
    number = _read(job).attempt + 1
    host = Host(job.node, store, number, job.facts(), lambda: requests.asked)
    try:
        host.gather()
        resume = job.holds_run()
        begun = begin_attempt(job.folder, job.settings.checkpoint.max_restarts, forgive=job.by_hand)
    except DistrainError as error:
        verdict = Verdict(error.exit_code, str(error), again=isinstance(error, Stopped))
        host.close(verdict)
        return verdict
    go, failure = host.start(begun.attempt, begun.token, resume), ""
    with _workers(job, go.attempt, go.port, go.resume, requests) as workers:
        told = False
        while True:
            if workers.over() and workers.cause() and not told:
                told = True
                host.failed(_failure(job, go.attempt, workers, requests))
            if not workers.endings and workers.over() and host.guests_finished():
                verdict = Verdict(0, "finished", again=False)
                break
            if cause := host.cause():
                verdict, failure = _judge(*cause, job.node, host.title(cause[0])), cause[1].sentence
                break
            time.sleep(TICK)
    if verdict.code != 0:
        # Without the machine's name: the same failure may follow the run to another.
        end_attempt(job.folder, None if verdict.code == Stopped.exit_code else failure)
    host.close(verdict)
    return verdict


def _follow(job: Job, store: Any, after: int, requests: Requests) -> tuple[Verdict, int]:
    """Any other node's part in an attempt, and the attempt's number."""
    guest = Guest(job.node, store, after, job.facts(), lambda: requests.asked)
    go = guest.wait_for_start()
    if go is None:
        assert guest.verdict is not None
        guest.close(finished=False)
        return guest.verdict, guest.number
    verdict, told = None, False
    with _workers(job, go.attempt, go.port, go.resume, requests) as workers:
        try:
            check_volume(lambda: read_attempts(job.folder).token, go.token, job.folder)
        except DistrainError as error:
            told = True
            guest.failed(Failure(error.exit_code, str(error), asked=False))
            workers.kill()
        while verdict is None:
            if workers.over() and not workers.endings:
                verdict = Verdict(0, "finished", again=False)
            elif workers.over() and not told:
                told = True
                guest.failed(_failure(job, go.attempt, workers, requests))
            else:
                guest.check_host()
                verdict = guest.verdict
            time.sleep(TICK)
    guest.close(finished=verdict.code == 0)
    return verdict, guest.number


@contextmanager
def _workers(job: Job, attempt: int, port: int, resume: bool, requests: Requests) -> Iterator[Workers]:
    """The workers of an attempt; none is left afterwards."""
    arguments = [*job.arguments, "--attempt", str(attempt), *(["--resume"] if resume else [])]
    log = job.folder / "logs" / f"node-{job.node.index}.attempt-{attempt}.log"
    if job.node.name:
        with suppress(OSError):
            log.parent.mkdir(exist_ok=True)
            with log.open("a") as file:
                file.write(f"attempt {attempt} on {job.node.title}\n")
    with TemporaryDirectory(prefix="distrain-") as scratch:
        workers = requests.workers = Workers(arguments, job.node, port, log, Path(scratch))
        if requests.asked:
            workers.ask()
        try:
            yield workers
        finally:
            requests.workers = None
            workers.kill()
            workers.wait()


def _failure(job: Job, attempt: int, workers: Workers, requests: Requests) -> Failure:
    """How this node's workers ended, also written to `errors/`."""
    cause = workers.cause()
    assert cause is not None
    folder = job.folder / "errors" / f"attempt-{attempt}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        error = {"rank": cause.rank, "exit_code": cause.code, "sentence": cause.sentence, "time": time.time()}
        write_json(folder / f"node-{job.node.index}.json", error | {"node": job.node.name or None})
    except OSError as failed:
        say(f"distrain: {folder} cannot be written: {failed.strerror}")
    return Failure(cause.code, cause.sentence, asked=requests.asked)


def _judge(index: int, failure: Failure, node: Node, title: str) -> Verdict:
    """What follows from a failure of the node with this index and title."""
    where = f"{title}: "
    if node.count == 1 and (not node.name or failure.code < 128 or failure.code == Stopped.exit_code):
        where = ""
    elif failure.code == Stopped.exit_code:
        where = f"{title} was asked to leave: "
    return Verdict(failure.code, f"{where}{failure.sentence}", again=failure.code >= 128)


def _pause(job: Job) -> float:
    """Seconds to wait before the next attempt; a guest waits for its host instead."""
    if not job.node.first:
        return 0.0
    record = _read(job)
    return 0.0 if record.excused else min(2.0**record.spent, LONGEST_PAUSE)


def _read(job: Job) -> Attempts:
    return with_retries("cannot be read", job.folder, lambda: read_attempts(job.folder))
