"""The chaos suite (`make chaos-test`, CASE=name for some): whatever dies, the run ends with equal weights.

Each case is a run of two nodes and one fault. Its final weights are those of a run that was left alone, bit for bit.
The table of what each fault cost goes to `_artifacts/chaos.md`, which `make chaos-test` prints.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import faults
from cluster import addons, kubectl, nodes, storage
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from distrain_k8s import Client
from faults import Victim
from release import ROOT, TINY, Release
from timeline import Timeline

EVERY = 20
"""Steps between two checkpoints."""
STEPS = 6 * EVERY
SETTINGS: dict[str, Any] = TINY | {
    "model": {"name": "/data/bert"},
    "batch": {"tokens": 256, "samples": 16, "micro_batches": 24},
    "schedule": {"max_steps": STEPS},
    "checkpoint": {"every_steps": EVERY},
}
MIDDLE = EVERY + 10
"""A step between two checkpoints, at which most faults come."""
TWO_MINUTES = 120.0


def delete_a_worker(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1)


def delete_a_worker_by_force(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1, force=True)


def delete_the_master(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0)


def delete_the_master_by_force(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0, force=True)


def delete_both_pods(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0, 1)


def kill_a_process(run: Victim) -> None:
    run.hit(MIDDLE)
    run.worker(1).kill()


def kill_a_supervisor(run: Victim) -> None:
    run.hit(MIDDLE)
    run.supervisor(1).kill()


def stop_a_process(run: Victim) -> None:
    run.hit(MIDDLE)
    run.worker(1).suspend()


def stop_a_supervisor_for_a_minute(run: Victim) -> None:
    run.hit(MIDDLE)
    supervisor = run.supervisor(1)
    supervisor.suspend()
    time.sleep(60)
    supervisor.resume()


def drain_a_node(run: Victim) -> None:
    run.hit(MIDDLE)
    machine = run.machine(1)
    kubectl.run("drain", machine, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout=180)
    kubectl.run("uncordon", machine)


def kill_within_a_checkpoint(run: Victim) -> None:
    run.until(EVERY)
    run.wait_for_file(f"tmp.{2 * EVERY}.*")
    run.timeline.mark()
    run.worker(0).kill()


def truncate_the_newest_checkpoint(run: Victim) -> None:
    damage(run, lambda file: os.truncate(file, file.stat().st_size // 2))


def flip_a_bit_of_the_newest_checkpoint(run: Victim) -> None:
    damage(run, faults.flip_a_bit)


def delete_a_file_of_the_newest_checkpoint(run: Victim) -> None:
    damage(run, Path.unlink)


def damage(run: Victim, how: Callable[[Path], None]) -> None:
    run.until(2 * EVERY + 5)
    run.timeline.mark()
    how(max(run.published()[-1].glob("*.safetensors"), key=lambda file: file.stat().st_size))
    run.worker(1).kill()


def fill_the_volume_for_two_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with storage.full(leave=1 << 20):
        time.sleep(TWO_MINUTES)


def freeze_the_volume_for_two_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with faults.frozen_volume():
        time.sleep(TWO_MINUTES)


def cut_the_network_for_30_seconds(run: Victim) -> None:
    run.hit(MIDDLE)
    with run.cut_off(1):
        time.sleep(30)


def cut_the_network_for_3_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with run.cut_off(1):
        time.sleep(180)


def no_dns_for_a_minute(run: Victim) -> None:
    run.hit(MIDDLE)
    with faults.no_dns():
        run.delete(1, force=True)
        time.sleep(60)


def kill_the_master_while_it_saves_the_model(run: Victim) -> None:
    run.until(5 * EVERY)
    supervisor, worker = run.supervisor(0), run.worker(0)
    run.wait_for_file("tmp.final*")
    run.timeline.mark()
    worker.kill()
    supervisor.kill()


def kill_a_worker_that_has_finished(run: Victim) -> None:
    run.until(5 * EVERY)
    run.wait_for_file("final")
    run.timeline.mark()
    run.delete(1, force=True)


def restart_the_api_server_and_the_operator(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1)
    faults.restart_operator()
    faults.restart_api_server(nodes.NODES[0])


class Case(NamedTuple):
    """lost: steps that may be done twice; a fault that leaves time for a checkpoint costs none. restarts: whether an
    attempt ends by it; None where either may happen."""

    fault: Callable[[Victim], None]
    lost: int = EVERY
    restarts: bool | None = True

    @property
    def name(self) -> str:
        return self.fault.__name__


CASES = (
    Case(delete_a_worker, lost=0),
    Case(delete_a_worker_by_force),
    Case(delete_the_master, lost=0),
    Case(delete_the_master_by_force),
    Case(delete_both_pods, lost=0),
    Case(kill_a_process),
    Case(kill_a_supervisor),
    Case(stop_a_process),
    Case(stop_a_supervisor_for_a_minute),
    Case(drain_a_node, lost=0),
    Case(kill_within_a_checkpoint),
    Case(truncate_the_newest_checkpoint, lost=2 * EVERY),
    Case(flip_a_bit_of_the_newest_checkpoint, lost=2 * EVERY),
    Case(delete_a_file_of_the_newest_checkpoint, lost=2 * EVERY),
    Case(fill_the_volume_for_two_minutes, restarts=None),
    Case(freeze_the_volume_for_two_minutes, restarts=None),
    Case(cut_the_network_for_30_seconds),
    Case(cut_the_network_for_3_minutes),
    Case(no_dns_for_a_minute),
    Case(kill_the_master_while_it_saves_the_model, restarts=None),
    Case(kill_a_worker_that_has_finished, lost=0, restarts=None),
    Case(restart_the_api_server_and_the_operator, lost=0),
)
ON_TRAINJOB = (
    Case(delete_a_worker, lost=0),
    Case(delete_the_master_by_force),
    Case(kill_a_process),
    Case(delete_both_pods, lost=0),
    Case(drain_a_node, lost=0),
)


class Table:
    """What each fault cost, a row a case."""

    HEADER = ("fault", "steps lost", "attempt over", "met again", "loaded", "next step", "the run")

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, name: str, timeline: Timeline, ending: str) -> None:
        """Times are seconds since the fault."""
        cost = timeline.recovery()
        cells = ("0", *["-"] * 4) if cost is None else (str(cost.lost), *(f"{moment:.0f} s" for moment in cost[1:]))
        self.rows.append((name.replace("_", " "), *cells, ending))

    def __str__(self) -> str:
        lines = (self.HEADER, ["---"] * len(self.HEADER), *self.rows)
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    artifacts = ROOT / "_artifacts"
    artifacts.mkdir(exist_ok=True)
    (artifacts / "chaos.md").write_text(str(made))


Start = Callable[..., Victim]


@pytest.fixture
def start(namespace: Namespace, image: str, inputs: Path) -> Start:
    """Installs a run of two nodes. values: of the chart."""

    def install(**values: Any) -> Victim:
        run = Release(namespace, image, inputs, {"nodes": 2, "trainer": SETTINGS} | values)
        run.install()
        return Victim(run, Timeline(run.folder))

    return install


@pytest.fixture(scope="session")
def expected(cluster: Cluster, image: str, inputs: Path) -> Iterator[dict[str, str]]:
    """Backend -> hash of the final weights of a run that was left alone. Filled by `whole`."""
    yield {}


@pytest.fixture
def whole(expected: dict[str, str], image: str, inputs: Path) -> Callable[[str], str]:
    """The hash of the final weights of a run that was left alone, made once for a backend."""

    def hash_of(backend: str) -> str:
        if backend not in expected:
            namespace = Namespace(f"whole-{backend}")
            namespace.create()
            try:
                values = {"nodes": 2, "trainer": SETTINGS, "backend": backend}
                run = Release(namespace, image, inputs, values)
                run.install()
                run.succeeded()
                expected[backend] = digest(run.folder)
            finally:
                namespace.remove()
        return expected[backend]

    return hash_of


def digest(folder: Path) -> str:
    """A hash of a run's final weights."""
    found = hashlib.sha256()
    for file in sorted((folder / "final").glob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()


def survives(case: Case, victim: Victim, expected: str, table: Table, name: str) -> None:
    """Lets the fault come, and holds the run to its promise."""
    with victim.timeline.recorded():
        case.fault(victim)
        victim.run.succeeded()
    same = digest(victim.folder) == expected
    table.add(name, victim.timeline, "Succeeded, equal weights" if same else "OTHER WEIGHTS")
    assert same
    lines = [line["step"] for line in victim.run.metrics() if "loss" in line]
    assert lines == sorted(set(lines)), "a step stands twice in metrics.jsonl"
    cost = victim.timeline.recovery()
    if case.restarts is not None:
        assert (cost is not None) == case.restarts, victim.timeline.looks
    assert cost is None or cost.lost <= case.lost, cost


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_survives(case: Case, start: Start, whole: Callable[[str], str], table: Table) -> None:
    expected = whole("pytorchjob")
    survives(case, start(), expected, table, case.name)


@pytest.mark.parametrize("case", ON_TRAINJOB, ids=lambda case: case.name)
def test_survives_on_trainjob(case: Case, start: Start, whole: Callable[[str], str], table: Table) -> None:
    addons.trainer()
    expected = whole("trainjob")
    survives(case, start(backend="trainjob"), expected, table, f"{case.name}, trainjob")


def test_survives_a_node_that_restarts(start: Start, whole: Callable[[str], str], table: Table) -> None:
    def restart_a_node(run: Victim) -> None:
        run.hit(MIDDLE)
        with faults.lost_machine(run.machine(1)):
            time.sleep(30)

    expected = whole("pytorchjob")
    survives(Case(restart_a_node), start(), expected, table, restart_a_node.__name__)


def test_survives_a_node_that_is_lost_for_good(
    start: Start, whole: Callable[[str], str], table: Table, namespace: Namespace
) -> None:
    """`status` says what is the matter, and its command frees the pod."""

    def lose_a_node(run: Victim) -> None:
        machine = run.machine(1)
        faults.keep_operator_off(machine)
        run.hit(MIDDLE)
        with (
            faults.lost_machine(machine),
            Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client,
        ):

            def look() -> tuple[str | None, object]:
                cause = client.status("run1").cause
                gone = cause is not None and cause.name == "node gone"
                return (cause.mend if cause and gone else None), cause and cause.sentence

            mend = kubectl.wait("status names the node", look, deadline=400, stall=400)
            kubectl.run(*mend.split()[1:])
            run.run.succeeded()

    expected = whole("pytorchjob")
    survives(Case(lose_a_node), start(), expected, table, lose_a_node.__name__)


def test_is_suspended_and_resumed(
    start: Start, whole: Callable[[str], str], table: Table, namespace: Namespace
) -> None:
    def suspend_and_resume(run: Victim) -> None:
        run.hit(MIDDLE)
        with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client:
            client.stop("run1")
            client.resume("run1")

    expected = whole("pytorchjob")
    survives(Case(suspend_and_resume, lost=0), start(), expected, table, suspend_and_resume.__name__)


@pytest.mark.parametrize(
    ("name", "values"),
    [("on one node", {"nodes": 1}), ("as fsdp", {"trainer": SETTINGS | {"strategy": {"kind": "fsdp"}}})],
)
def test_resumes_as_something_else(name: str, values: dict[str, Any], start: Start, table: Table) -> None:
    """The data and their order stay; losses agree to 1e-5."""
    run = start()
    with run.timeline.recorded():
        run.hit(MIDDLE)
        run.namespace.helm("uninstall", "run1")
        run.run.values |= values
        run.run.install()
        run.run.succeeded()
    table.add(f"uninstall, and install {name}", run.timeline, "Succeeded")
    cost = run.timeline.recovery()
    assert cost and cost.lost == 0


def test_stops_where_every_checkpoint_is_damaged(start: Start, table: Table) -> None:
    run = start()
    with run.timeline.recorded():
        run.until(2 * EVERY + 5)
        kept = run.published()
        run.timeline.mark()
        for node in (0, 1):  # so that no checkpoint comes after those
            run.worker(node).suspend()
        for checkpoint in run.published():
            faults.flip_a_bit(max(checkpoint.glob("*.safetensors"), key=lambda file: file.stat().st_size))
        run.delete(0, 1, force=True)
        assert run.run.ended() == "Failed"
    assert 66 in {code for code, _ in run.run.last_words().values()}
    assert set(kept) <= set(run.published()), "a damaged checkpoint was deleted"
    table.add("damage every checkpoint", run.timeline, "Failed with 66, nothing deleted")


def test_stops_where_memory_never_suffices(start: Start, table: Table, namespace: Namespace) -> None:
    resources = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "400Mi"}}
    run = start(resources=resources, trainer=SETTINGS | {"checkpoint": {"every_steps": EVERY, "max_restarts": 1}})
    with run.timeline.recorded():
        run.timeline.mark()
        assert run.run.ended() == "Failed"
    with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client:
        cause = client.status("run1").cause
    assert cause and cause.name == "out of memory", cause
    table.add("too little memory", run.timeline, "Failed: out of memory")
