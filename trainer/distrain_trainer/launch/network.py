"""The preflight alone (`distrain preflight`): each node checks itself, all meet, and measure the network between them.

Each finding is one JSON line on stdout, `{"check": {...}}`: pods hold no token for the cluster, so the log is the way
to the client. Node 0 tells those of the network. Nothing is trained.
"""

import json
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NoReturn, TypeVar

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError, FailureReport, LostPeer, RunFailed, SettingsError, Stopped
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.coordinator import Coordinator, Waiting, check
from distrain_trainer.launch.member import Member, next_rendezvous
from distrain_trainer.launch.messages import AttemptOutcome
from distrain_trainer.launch.node import Node, gpus_here, titled
from distrain_trainer.launch.preflight import check_rdma, check_shared_memory, check_volume, locked_memory_problem
from distrain_trainer.launch.store import Exchange, ExchangeThread, Store, free_port, open_store
from distrain_trainer.launch.workers import Workers
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.run_folder import check_writable

MEETING = 180.0
"""Seconds that the nodes have to find each other."""
SEEN_WITHIN = 10.0
"""Seconds within which a file of node 0 must be seen on the others."""
NUMBERS = 20
"""All-reduces of one number, whose median is the latency."""
SIZES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Bytes of the all-reduce that measures bandwidth."""
ROUNDS = 5
SLOW_LATENCY = 0.005
"""Seconds for one number, above which steps will be slow."""
SLOW_BANDWIDTH = {"cpu": 0.1e9, "cuda": 2.5e9}
"""Bytes a second, below which steps will be slow; on GPUs less than 25 Gb/s, which is what TCP falls back to."""
T = TypeVar("T")
PROMISED = "DISTRAIN_PREFLIGHT_GPUS"


@dataclass(frozen=True)
class Finding:
    """What one check has found. about: what was looked at. mend: what to do, empty where all is well."""

    node: str
    state: Literal["ok", "warn", "fail"]
    about: str
    sentence: str
    mend: str = ""

    def tell(self) -> None:
        """Prints it."""
        print(json.dumps({"check": asdict(self)}), flush=True)


def check_network(
    node: Node,
    cluster: ClusterEnvironment,
    settings: Settings,
    facts: dict[str, Any],
    stopping: Callable[[], bool],
    volume: Path | None = None,
) -> int:
    """Checks this node and, together with the others, the network; the number of failures here.

    facts: what must be the same on all nodes. volume: a folder that all nodes must see; if it is empty, it goes again.
    Raises Stopped.
    """
    failures = 0
    for finding in findings_here(node, cluster, settings, volume):
        finding.tell()
        failures += finding.state == "fail"
    if node.count * node.processes == 1:
        Finding(node.title, "ok", "network", "one process, which needs none").tell()
        return failures
    os.environ[PROMISED] = str(gpus_here(cluster))
    try:
        failures += meet_and_measure(node, facts, stopping, volume)
    except Stopped:
        raise
    except DistrainError as error:
        sentence, _, mend = str(error).partition("; ")
        Finding(node.title, "fail", "network", sentence, mend).tell()
        failures += 1
    if volume and node.first:  # all nodes have looked by now, and nothing is to be left of that on a claim
        with suppress(OSError):  # it is no longer empty
            volume.rmdir()
    return failures


def findings_here(
    node: Node, cluster: ClusterEnvironment, settings: Settings, volume: Path | None
) -> Iterator[Finding]:
    """What this machine shows by itself."""
    gpus = gpus_here(cluster)
    checks: list[tuple[str, str, Callable[[], None]]] = [
        (
            "shared memory",
            "/dev/shm is large enough",
            lambda: check_shared_memory(settings, node.processes, gpus),
        )
    ]
    if cluster.rdma:
        checks.append(("rdma", "RDMA devices are here, and NCCL can use them", lambda: check_rdma(True)))
    if volume:
        checks.append(("volume", f"{volume} can be written", lambda: check_writable(volume)))
    for about, well, look in checks:
        try:
            look()
        except DistrainError as error:
            sentence, _, mend = str(error).partition("; ")
            yield Finding(node.title, "fail", about, sentence, mend)
        else:
            yield Finding(node.title, "ok", about, well)
    if problem := locked_memory_problem(node.count):
        sentence, _, mend = problem.partition("; ")
        yield Finding(node.title, "warn", "locked memory", sentence, mend)


def meet_and_measure(node: Node, facts: dict[str, Any], stopping: Callable[[], bool], volume: Path | None) -> int:
    """All nodes meet, compare what they are, and measure; failures that were told. Raises DistrainError."""
    meeting = Preflight(node, facts, stopping, time.monotonic() + MEETING)
    try:
        return driven(coordinate(meeting, volume) if node.first else take_part(meeting, volume))
    except Stopped:
        if stopping():
            raise
        where = f"{node.address}:{node.port}"
        raise LostPeer(
            f"not all of {node.count} nodes have met within {MEETING:.0f} s at {where}; see whether all pods run, and "
            "whether a NetworkPolicy or the DNS keeps them apart"
        ) from None


@dataclass
class Preflight:
    """This node, as it meets the others without a run. stopping: asked to leave. until: when the nodes have met, or
    never will, by the monotonic clock."""

    node: Node
    facts: Mapping[str, Any]
    stopping: Callable[[], bool]
    until: float
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    def now(self) -> float:
        return time.monotonic()

    def asked(self) -> bool:
        return self.stopping() or time.monotonic() > self.until

    def say(self, text: str) -> None:
        say(text)

    def exchange(self, act: Callable[[], Any]) -> Exchange:
        return ExchangeThread(act)

    def free_port(self) -> int:
        return free_port()

    def check_lock(self) -> None:
        """There is none."""

    def finished(self, lately: bool = False) -> bool:
        return False


def driven(waiting: Waiting[T]) -> T:
    """What comes of it, after all its pauses."""
    try:
        while True:
            time.sleep(next(waiting))
    except StopIteration as end:
        found: T = end.value
        return found


def connected(meeting: Preflight) -> Waiting[Store | None]:
    """Node 0's store, waited for; None where there is one node. Raises Stopped, and LostPeer on node 0."""
    if meeting.node.count == 1:
        return None
    while True:
        check(meeting)
        try:
            return open_store(meeting.node, "preflight")
        except LostPeer:
            if meeting.node.first:
                raise
        yield 0.5


def coordinate(meeting: Preflight, volume: Path | None) -> Waiting[int]:
    """Node 0's part; failures that were told, none."""
    node, token = meeting.node, secrets.token_hex(8)
    sign = sign_of(volume, token) if volume else None
    coordinator = Coordinator(meeting, (yield from connected(meeting)), 1)
    failure: FailureReport | None = None
    try:
        if sign:
            with suppress(OSError):  # which is a finding of this machine already
                sign.write_text(token)
        yield from coordinator.gather()
        Finding(node.title, "ok", "versions", f"the same on {_nodes(node)}: version, code and settings").tell()
        start = coordinator.start(1, token, resume=False)
        with _measuring(node, start.port) as workers:
            while not (workers.over() and (workers.failures or coordinator.members_finished())):
                if cause := coordinator.cause():
                    failure = cause.report
                    break
                yield 0.05
            failure = failure or workers.cause()
        if failure:
            raise RunFailed(failure)
    except SettingsError as error:
        failure = FailureReport(error.exit_code, str(error))
        raise
    finally:
        yield from coordinator.close(AttemptOutcome(failure))
        if sign:
            sign.unlink(missing_ok=True)
    return 0


def sign_of(volume: Path, token: str) -> Path:
    """The file in which node 0 writes the token, for the others to read."""
    return volume / f"tmp.preflight-{token}"


def take_part(meeting: Preflight, volume: Path | None) -> Waiting[int]:
    """Any other node's part; failures that were told."""
    store = yield from connected(meeting)
    assert store is not None
    member = Member(meeting, store, (yield from next_rendezvous(meeting, store, 0)))
    failures = 0
    try:
        start = yield from member.wait_for_start()
        if start is None:
            return 0  # node 0 says why
        if volume:
            sign = sign_of(volume, start.token)
            try:
                check_volume(
                    lambda: sign.read_text() if sign.exists() else "", start.token, volume, patience=SEEN_WITHIN
                )
            except DistrainError as error:
                sentence, _, mend = str(error).partition("; ")
                Finding(meeting.node.title, "fail", "volume", sentence, mend).tell()
                failures = 1
        with _measuring(meeting.node, start.port) as workers:
            while not workers.over() and member.outcome is None:
                member.check_coordinator()
                yield 0.05
            if (report := workers.cause()) and member.outcome is None:
                member.fail(report, asked=False)
                yield 1.5
            member.finish()
    finally:
        member.close()
    return failures


class _measuring:
    """The workers that measure, of which none is left afterwards."""

    def __init__(self, node: Node, port: int):
        self._scratch = TemporaryDirectory(prefix="distrain-")
        folder = Path(self._scratch.name)
        self._workers = Workers(measure, [], node, port, folder / "log", folder)

    def __enter__(self) -> Workers:
        return self._workers

    def __exit__(self, *_: object) -> None:
        self._workers.kill()
        self._workers.wait()
        self._scratch.cleanup()


def measure(_: list[str]) -> NoReturn:
    """The life of a worker: connects to the others, and measures with them."""
    from distrain_trainer.launch.termination import leave, report_of, write_error_file

    try:
        measure_with_others()
        leave(0)
    except Exception as error:
        report = report_of(error, int(os.environ.get("RANK", 0)), os.environ.get("RUN_NODE_NAME"))
        write_error_file(report)
        leave(report.exit_code)


def measure_with_others() -> None:
    """Latency and bandwidth of an all-reduce over all processes. Raises SettingsError where there is no GPU."""
    import torch
    import torch.distributed as dist

    local, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    promised = int(os.environ.get(PROMISED, 0))
    if promised and torch.cuda.device_count() <= local:
        raise SettingsError(
            f"{promised} GPUs were promised and CUDA finds {torch.cuda.device_count()}; check the node's driver and "
            "device plugin"
        )
    kind = "cuda" if promised else "cpu"
    device = torch.device("cuda", local) if promised else torch.device("cpu")
    if promised:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if promised else "gloo", timeout=timedelta(seconds=120))

    def seconds(count: int) -> float:
        numbers = torch.ones(count, device=device)
        began = time.perf_counter()
        dist.all_reduce(numbers)
        numbers[0].item()  # waits for the device
        return time.perf_counter() - began

    seconds(1)  # connects them
    latency = statistics.median(seconds(1) for _ in range(NUMBERS))
    size = SIZES[kind]
    seconds(size // 4)
    took = statistics.median(seconds(size // 4) for _ in range(ROUNDS))
    bandwidth = 2 * (world - 1) / world * size / took
    if int(os.environ["RANK"]) == 0:
        for finding in judged(world, kind, latency, bandwidth):
            finding.tell()
    dist.barrier()


def judged(world: int, kind: str, latency: float, bandwidth: float) -> Iterator[Finding]:
    """What was measured, as findings of node 0. latency: seconds. bandwidth: bytes a second, of each process's link."""
    title = titled(0, os.environ.get("RUN_NODE_NAME", ""))
    over = f"over {world} processes"
    slow = latency > SLOW_LATENCY
    mend = "put the pods nearer to each other (affinity), and look for busy nodes"
    yield Finding(
        title,
        "warn" if slow else "ok",
        "latency",
        f"an all-reduce of one number {over} takes {latency * 1000:.2f} ms",
        mend if slow else "",
    )
    slow = bandwidth < SLOW_BANDWIDTH[kind]
    mend = "look for busy nodes, and for a network plugin that encrypts or encapsulates"
    if kind == "cuda":
        mend = "see which network NCCL uses (--set nccl.NCCL_DEBUG=INFO), and set rdma.enabled where there is RDMA"
    yield Finding(
        title,
        "warn" if slow else "ok",
        "bandwidth",
        f"{bandwidth / 1e9:.2f} GB/s in an all-reduce {over}",
        mend if slow else "",
    )


def _nodes(node: Node) -> str:
    return f"all {node.count} nodes" if node.count > 1 else "this node"
