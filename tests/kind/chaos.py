"""The chaos suite (`make chaos-test`, CASE=name for some): whatever dies, the run ends with equal weights.

Each case is a run of two nodes and one fault. Its final weights are those of a run that was left alone, bit for bit.
The table of what each fault cost goes to `_artifacts/chaos.md`, which `make chaos-test` prints.
"""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cases
import faults
import queues
from cases import CASES, EVERY, MIDDLE, ON_TRAINJOB, SETTINGS, Case
from cluster import addons, kubectl
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from distrain_k8s import Client
from faults import Victim
from release import ROOT, TINY, Release, digest, train_here
from sequence import one_run
from timeline import Timeline


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


class Whole(NamedTuple):
    """A run that was left alone: the hash of its final weights, and step -> loss."""

    digest: str
    losses: dict[int, float]


LeftAlone = Callable[[str], Whole]


@pytest.fixture(scope="session")
def left_alone(cluster: Cluster, image: str, inputs: Path) -> LeftAlone:
    """Backend -> a run of it that was left alone, made once."""

    @functools.cache
    def run_of(backend: str) -> Whole:
        namespace = Namespace(f"whole-{backend}")
        namespace.create()
        try:
            run = Release(namespace, image, inputs, {"nodes": 2, "trainer": SETTINGS, "backend": backend})
            run.install()
            run.succeeded()
            return Whole(digest(run.folder), run.losses())
        finally:
            namespace.remove()

    return run_of


def survives(case: Case, victim: Victim, whole: Whole, table: Table, name: str) -> None:
    """Lets the fault come, and holds the run to its promise."""
    with victim.timeline.recorded():
        case.fault(victim)
        victim.run.succeeded()
    same = digest(victim.folder) == whole.digest
    table.add(name, victim.timeline, "Succeeded, equal weights" if same else "OTHER WEIGHTS")
    assert same
    lines = [line["step"] for line in victim.run.metrics() if "loss" in line]
    assert lines == sorted(set(lines)), "a step stands twice in metrics.jsonl"
    cost = victim.timeline.recovery()
    if case.restarts is not None:
        assert (cost is not None) == case.restarts, victim.timeline.looks
    assert cost is None or cost.lost <= case.lost, cost


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_survives(case: Case, start: Start, left_alone: LeftAlone, table: Table) -> None:
    whole = left_alone("pytorchjob")
    survives(case, start(), whole, table, case.name)


@pytest.mark.parametrize("case", ON_TRAINJOB, ids=lambda case: case.name)
def test_survives_on_trainjob(case: Case, start: Start, left_alone: LeftAlone, table: Table) -> None:
    addons.trainer()
    whole = left_alone("trainjob")
    survives(case, start(backend="trainjob"), whole, table, f"{case.name}, trainjob")


def test_survives_six_in_a_row(cluster: Cluster, image: str, inputs: Path) -> None:
    """One run under six faults, each behind a new checkpoint: what CI has time for."""
    faults_in_a_row = (
        cases.delete_a_worker,
        cases.delete_the_master_by_force,
        cases.kill_a_process,
        cases.drain_a_node,
        cases.flip_a_bit_of_the_newest_checkpoint,
        cases.kill_a_supervisor,
    )
    whole = one_run("row-whole", image, inputs, iter(())).digest
    ended = one_run("row", image, inputs, iter(faults_in_a_row))
    assert ended.faults == [fault.__name__ for fault in faults_in_a_row]
    assert ended.digest == whole


def test_survives_a_node_that_restarts(start: Start, left_alone: LeftAlone, table: Table) -> None:
    def restart_a_node(run: Victim) -> None:
        run.hit(MIDDLE)
        with faults.lost_machine(run.machine(1)):
            time.sleep(30)

    whole = left_alone("pytorchjob")
    survives(Case(restart_a_node), start(), whole, table, restart_a_node.__name__)


def test_survives_eviction_by_pressure(cluster: Cluster, image: str, inputs: Path, table: Table) -> None:
    """Kubelet looks at its disk every ten seconds, so this run is a longer one."""
    machine = next(name for name in cluster.workers if name != faults.operators_machine())
    whole = one_run("pressure-whole", image, inputs, iter(())).digest
    with faults.disk_pressure(machine) as fill:

        def evict_by_pressure(run: Victim) -> None:
            def look() -> tuple[bool | None, object]:
                events = [e for e in run.namespace.get("events")["items"] if e["reason"] == "Evicted"]
                return bool(events) or None, events

            run.timeline.mark()
            fill()
            kubectl.wait("a pod is evicted", look, deadline=120, stall=120)

        ended = one_run("pressure", image, inputs, iter((evict_by_pressure,)))
    table.add("evict by pressure", ended.timeline, "Succeeded, equal weights")
    assert ended.faults == ["evict_by_pressure"] and ended.attempts > 1
    assert ended.digest == whole


def test_survives_a_node_that_is_lost_for_good(
    start: Start, left_alone: LeftAlone, table: Table, namespace: Namespace
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

    whole = left_alone("pytorchjob")
    survives(Case(lose_a_node), start(), whole, table, lose_a_node.__name__)


def test_is_suspended_and_resumed(start: Start, left_alone: LeftAlone, table: Table, namespace: Namespace) -> None:
    def suspend_and_resume(run: Victim) -> None:
        run.hit(MIDDLE)
        with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client:
            client.stop("run1")
            client.resume("run1")

    whole = left_alone("pytorchjob")
    survives(Case(suspend_and_resume, lost=0), start(), whole, table, suspend_and_resume.__name__)


@pytest.mark.parametrize(
    ("name", "values"),
    [("on one node", {"nodes": 1}), ("as fsdp", {"trainer": SETTINGS | {"strategy": {"kind": "fsdp"}}})],
)
def test_resumes_as_something_else(
    name: str, values: dict[str, Any], start: Start, left_alone: LeftAlone, table: Table
) -> None:
    """The data and their order stay; losses agree to 1e-5."""
    whole = left_alone("pytorchjob")
    run = start()
    with run.timeline.recorded():
        run.hit(MIDDLE)
        run.namespace.helm("uninstall", "run1")
        run.run.values |= values
        run.run.install()
        run.run.succeeded()
    assert run.run.losses() == pytest.approx(whole.losses, abs=1e-5)
    table.add(f"uninstall, and install {name}", run.timeline, "Succeeded, equal losses")
    cost = run.timeline.recovery()
    assert cost and cost.lost == 0


def test_goes_on_with_fewer_nodes(start: Start, table: Table, inputs: Path, tmp_path: Path) -> None:
    """A node that is cut off is not waited for, and takes part again when it is back. The steps stay; losses agree to
    1e-5 with those of a run that was left alone, here."""
    longer = SETTINGS | {"batch": SETTINGS["batch"] | {"micro_batches": 96}}  # so that it does not end meanwhile
    run = start(trainer=longer | {"elastic": {"min_nodes": 1, "wait_minutes": 0.1}})

    def alone() -> tuple[bool | None, object]:
        taken = [line for line in run.run.metrics() if "loss" in line]
        return (taken[-1]["nodes"] == 1 or None), taken[-1]["step"]

    with run.timeline.recorded():
        run.hit(MIDDLE)
        with run.cut_off(1):
            kubectl.wait("steps on one node", alone, deadline=180, stall=120)
        run.run.succeeded()
    taken = [line["nodes"] for line in run.run.metrics() if "loss" in line]
    assert set(taken) == {1, 2}
    assert taken[0] == taken[-1] == 2, "the node did not come back"
    assert run.run.losses() == pytest.approx(train_here(tmp_path / "here", inputs, longer, processes=2), abs=1e-5)
    table.add("go on with one node, and let the other in again", run.timeline, "Succeeded, equal losses")


def test_is_preempted_by_a_run_of_higher_priority(
    start: Start, left_alone: LeftAlone, table: Table, namespace: Namespace, image: str, inputs: Path
) -> None:
    """Kueue suspends the run, which goes on where it was when the other is done."""

    def preempt(run: Victim) -> None:
        run.hit(MIDDLE)
        values = {"nodes": 2, "trainer": TINY | {"model": {"name": "/data/bert"}}}
        queue = {"queue": queues.QUEUE, "priorityClass": queues.priority(namespace, "urgent", 1000)}
        urgent = Release(namespace, image, inputs, values | {"kueue": queue}, name="urgent")
        urgent.install()
        urgent.succeeded()

    queues.one_run_at_a_time(namespace)
    whole = left_alone("pytorchjob")
    low = {"queue": queues.QUEUE, "priorityClass": queues.priority(namespace, "low", 1)}
    survives(Case(preempt, lost=0), start(kueue=low), whole, table, "preempted by Kueue")


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
    assert cause and "memory" in cause.sentence, cause
    table.add("too little memory", run.timeline, "Failed: out of memory")
