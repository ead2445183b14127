"""The first process of a node: it supervises the workers, passes signals on, and says how its part of the run ended.

Ctrl-C or SIGTERM asks the workers of all nodes to save and leave (143); a second Ctrl-C leaves at once (130).
"""

import hashlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain_trainer.console import debug, say, warn
from distrain_trainer.errors import FailureReport, Superseded, VolumeLost
from distrain_trainer.hardware.machine import versions
from distrain_trainer.launch.attempts import take_part
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.messages import Start
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.signals import Requests
from distrain_trainer.launch.spot import heed_notices
from distrain_trainer.launch.store import Exchange, ExchangeThread, Store, free_port, open_store
from distrain_trainer.launch.surroundings import RunningWorkers
from distrain_trainer.launch.workers import Work, Workers
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.storage.attempts import Attempts, begin_attempt, end_attempt, read_attempts
from distrain_trainer.storage.files import json_line, write_json, write_text
from distrain_trainer.storage.lock import FolderLock, Holder
from distrain_trainer.storage.previous import put_back, remove_previous
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.storage.run_folder import check_writable, is_finished, read_claim

FINISHED_EVERY = 5.0
"""Seconds between two looks for the finished mark by one who waits."""


@dataclass
class Job:
    """What is to be run on this node.

    cluster: what the cluster says about this machine. work: the worker program. preload: imports what it needs, which
    takes seconds. arguments: its arguments. resume: whether the folder may hold this run. by_hand: a person has
    started it, so that earlier failures do not count. lock: of the folder, on node 0. previous: what the run that is in
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
    _before: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._written()

    @property
    def folder(self) -> Path:
        return Path(self.settings.output_dir)

    @property
    def run(self) -> str:
        """The run's name, the same on all nodes and no other run's."""
        return self.settings.run_id or hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]

    @property
    def replaces(self) -> bool:
        """Whether the run that this one replaces is still in its place."""
        return (
            self.previous is not None
            and not (self.folder / self.previous).exists()
            and self._written() == self._before  # else this run has come to its end, and removed the other
        )

    def _written(self) -> tuple[int, int] | None:
        """Tells one settings.json from another, whatever is in them; None where there is none."""
        try:
            found = (self.folder / "settings.json").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def holds_run(self) -> bool:
        """Whether there is something in the folder to continue. Raises DistrainError."""
        return read_claim(self.settings, self.resume, self.replaces).stored is not None

    def finished(self) -> bool:
        """Whether the run has come to the end of the schedule that is asked for. Raises DistrainError."""
        return is_finished(read_claim(self.settings, self.resume, self.replaces))

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
    export_metrics(job.folder, job.cluster.metrics_port)
    if job.finished():
        if job.lock is not None:
            remove_previous(job.folder)
        say(f"the run in {job.folder} is finished; give it more schedule.epochs to train on")
        return 0
    if job.settings.checkpoint.spot_notices:
        heed_notices(job.settings.checkpoint.spot_notices)
    try:
        for seconds in take_part(Machine(job, requests)):
            time.sleep(seconds)
    except Superseded as error:
        if job.lock is not None and (other := job.lock.check()):
            raise taken_over(job.folder, other) from error
        raise
    return 0


def taken_over(folder: Path, other: Holder) -> Superseded:
    """That another node 0 of this run uses its folder."""
    return Superseded(f"{folder} was taken over by {other.title}; this process leaves it alone")


def export_metrics(folder: Path, port: int | None) -> None:
    """Starts the Prometheus endpoint where the cluster has a port for it; a run does without one."""
    if port is None:
        return
    from distrain_trainer.reporting.prometheus import export

    try:
        export(folder, port)
    except OSError as error:
        warn(f"no Prometheus endpoint at port {port}: {error}")


class Machine:
    """This machine, as the surroundings of a supervisor."""

    def __init__(self, job: Job, requests: Requests):
        self._job, self._requests = job, requests
        self.node, self.run, self.nonce = job.node, job.run, secrets.token_hex(8)
        self.facts: Mapping[str, Any] = job.facts()
        self.by_hand = job.by_hand
        self.min_nodes, self.patience = job.settings.elastic.min_nodes, job.settings.elastic.wait_minutes * 60
        self.max_wait = (job.settings.checkpoint.max_wait_hours or float("inf")) * 3600
        self._looked = 0.0

    def now(self) -> float:
        return time.monotonic()

    def asked(self) -> bool:
        return self._requests.asked

    def say(self, text: str) -> None:
        say(text)

    def warn(self, text: str) -> None:
        warn(text)

    def time(self) -> float:
        return time.time()

    def tell_waiting(self, failure: FailureReport, since: float | None) -> None:
        if sys.stdout.isatty():
            return
        when = datetime.fromtimestamp(self.time() if since is None else since, UTC).isoformat(timespec="seconds")
        with suppress(OSError, ValueError):  # whoever reads has gone; a run does not end for that
            print(json_line({"event": "waiting", "message": failure.sentence, "since": when}), flush=True)

    def connect(self) -> Store:
        return open_store(self.node, self.run)

    def exchange(self, act: Callable[[], Any]) -> Exchange:
        return ExchangeThread(act)

    def free_port(self) -> int:
        return free_port()

    def check_lock(self) -> None:
        if self._job.lock is not None and (other := self._job.lock.lost_to()):
            raise taken_over(self._job.folder, other)

    def attempts(self) -> Attempts:
        folder = self._job.folder
        return with_retries("cannot be read", folder, lambda: read_attempts(folder))

    def begin_attempt(self, after: Attempts, nodes: list[int]) -> Attempts:
        if self._job.lock is not None and (other := self._job.lock.check()):
            raise taken_over(self._job.folder, other)
        settings = self._job.settings.checkpoint
        begun = begin_attempt(
            self._job.folder,
            settings.max_restarts,
            self.by_hand,
            after,
            max_wait_hours=settings.max_wait_hours,
            nodes=nodes,
        )
        self._job.resume = True
        return begun

    def end_attempt(self, begun: Attempts, report: FailureReport | None) -> None:
        end_attempt(self._job.folder, begun, report)

    def holds_run(self) -> bool:
        job = self._job
        if job.replaces:
            with_retries("cannot be written", job.folder, lambda: put_back(job.folder))
        return job.holds_run()

    def check_writable(self) -> None:
        check_writable(self._job.folder)

    def keep_report(self, attempt: int, report: FailureReport, workers: RunningWorkers) -> None:
        folder, name = self._job.folder / "errors" / f"attempt-{attempt}", f"node-{self.node.index}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{name}.json", asdict(report) | {"time": time.time()})
            if stacks := workers.stacks():
                write_text(folder / f"{name}.stacks.txt", stacks)
        except OSError as failed:
            warn(f"{folder} cannot be written: {failed.strerror}")

    def finished(self, lately: bool = False) -> bool:
        if lately and time.monotonic() - self._looked < FINISHED_EVERY:
            return False
        self._looked = time.monotonic()
        try:
            return self._job.finished()
        except VolumeLost:
            return False

    @contextmanager
    def workers(self, start: Start) -> Iterator[Workers]:
        job, requests = self._job, self._requests
        arguments = [*job.arguments, "--attempt", str(start.attempt), *(["--resume"] if start.resume else [])]
        arguments += ["--check"] if start.check else []
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
            workers = requests.workers = Workers(
                job.work, arguments, job.node, start.port, log, Path(scratch), start.nodes
            )
            if requests.asked:
                workers.ask()
            try:
                yield workers
            finally:
                requests.workers = None
                workers.kill()
                workers.wait()
