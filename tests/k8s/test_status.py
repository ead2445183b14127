"""The phase of a run follows from its pods, whatever kind of job it is and whoever made it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain_k8s.diagnose.causes import CAUSES, Stage
from distrain_k8s.diagnose.evidence import events_of_runs
from distrain_k8s.kube.objects import read_event, read_pytorchjob
from distrain_k8s.runs.status import Phase, data_of, status_of
from evidence import run, seen
from made import ended, event, pod, pytorchjob, trainjob, waiting, workload

Object = dict[str, Any]


def pods_of(kind: str, *states: Object | None, **more: Any) -> list[Object]:
    return [pod(rank=rank, state=state, kind=kind, **more) for rank, state in enumerate(states)]


@pytest.fixture(params=["PyTorchJob", "TrainJob"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def job_of(kind: str, **more: Any) -> Object:
    """A job that is under way."""
    return pytorchjob(**more) if kind == "PyTorchJob" else trainjob(**more)


def test_a_run_is_running_when_all_its_pods_are_not_when_its_job_says_so(kind: str) -> None:
    both = run(job_of(kind), *pods_of(kind, None, None))
    assert (both.phase, both.nodes_running, both.nodes, both.cause) == (Phase.RUNNING, 2, 2, None)
    creating = waiting("ContainerCreating")
    one = run(job_of(kind), pod(kind=kind), pod(kind=kind, rank=1, state=creating, phase="Pending"))
    assert (one.phase, one.nodes_running) == (Phase.STARTING, 1)


def test_a_job_that_nobody_has_seen_yet_is_pending_and_not_an_error(kind: str) -> None:
    new = {"states": (), "age": 2} if kind == "PyTorchJob" else {"states": (), "age": 2, "seen": False}
    found = run(job_of(kind, **new))
    assert (found.phase, found.cause) == (Phase.PENDING, None)
    del (bare := job_of(kind, **new))["status"]
    assert run(bare).phase is Phase.PENDING


def test_a_job_that_no_operator_looks_at_says_so() -> None:
    found = run(pytorchjob(states=(), age=90))
    assert found.phase is Phase.PENDING and found.cause
    assert found.cause.name == "operator not running"
    assert "kubectl get deployment -n kubeflow training-operator" in found.cause.mend


@pytest.mark.parametrize(("queue", "phase"), [("", Phase.STOPPED), ("queue", Phase.QUEUED)])
def test_a_suspended_job_is_stopped_or_queued_and_never_created(kind: str, queue: str, phase: Phase) -> None:
    states = {"states": ("Created", "Suspended")} if kind == "PyTorchJob" else {"states": ("Suspended",)}
    assert run(job_of(kind, suspend=True, queue=queue, **states)).phase is phase


def test_a_workload_that_is_switched_off_is_a_stopped_run(kind: str) -> None:
    job = job_of(kind, suspend=True, queue="queue")
    assert run(job, queue=workload(active=False)).phase is Phase.STOPPED
    waits = run(job, queue=workload(message="couldn't assign flavors: insufficient quota for nvidia.com/gpu"))
    assert waits.phase is Phase.QUEUED and waits.cause
    assert waits.cause.sentence == (
        "it waits in the queue queue: couldn't assign flavors: insufficient quota for nvidia.com/gpu"
    )


def test_ends_are_ends_whatever_the_pods_do(kind: str) -> None:
    good = ("Succeeded",) if kind == "PyTorchJob" else ("Complete",)
    assert run(job_of(kind, states=good), *pods_of(kind, None, None)).phase is Phase.SUCCEEDED
    failed = run(job_of(kind, states=("Failed",)), *pods_of(kind, ended(64, "no such model"), None))
    assert failed.phase is Phase.FAILED and failed.cause
    assert failed.cause.sentence == "the settings are refused on node 0: no such model"
    assert failed.ended is not None and failed.seconds == 590


def test_a_worker_that_is_done_before_the_master_is_no_restart(kind: str) -> None:
    done = pod(kind=kind, rank=1, state=ended(0), phase="Succeeded")
    assert run(job_of(kind), pod(kind=kind), done).phase is Phase.RUNNING


def test_a_run_that_is_done_is_no_restart_before_its_job_says_so(kind: str) -> None:
    told = event("ExitedWithCode", "Pod: team.run1-master-0 exited with code 0", count=2)
    for phase in ("Running", "Succeeded"):
        found = run(job_of(kind, nodes=1), pod(kind=kind, state=ended(0), phase=phase), events=(told,))
        assert (found.phase, found.restarts, found.cause) == (Phase.RUNNING, 0, None)


def test_a_pod_that_failed_and_will_be_made_anew_is_a_restart(kind: str) -> None:
    failed = pod(kind=kind, rank=1, state=ended(138, "lost node 0"), phase="Failed", uid="first")
    found = run(job_of(kind), pod(kind=kind), failed)
    assert (found.phase, found.shown_phase) == (Phase.RESTARTING, "Restarting 1")
    assert found.cause and found.cause.sentence == "node 1 ended: lost node 0"
    leaving = pod(kind=kind, rank=1, deleted=-20)
    assert run(job_of(kind), pod(kind=kind), leaving).phase is Phase.RESTARTING


def test_a_run_that_goes_on_with_fewer_nodes_runs_and_says_what_is_missing() -> None:
    elastic = {"DISTRAIN_ELASTIC__MIN_NODES": "2"}
    lost = pod(rank=2, unscheduled="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    failed = event("ExitedWithCode", "Pod: team.run1-worker-1 exited with code 138")
    job = pytorchjob(nodes=3)

    def phase(*pods: Object, settings: dict[str, str] = elastic) -> Phase:
        return status_of(replace(seen(job, *pods, events=(failed,)), settings=settings)).phase

    assert phase(pod(), pod(rank=1), lost) is Phase.RUNNING
    assert phase(pod(), pod(rank=1), lost, settings={}) is Phase.RESTARTING
    assert phase(pod(), pod(rank=1, deleted=-20), lost) is Phase.RESTARTING, "one is too few"
    assert phase(pod(deleted=-20), pod(rank=1), pod(rank=2)) is Phase.RESTARTING, "node 0 must be there"
    found = status_of(replace(seen(job, pod(), pod(rank=1), lost, events=(failed,)), settings=elastic))
    assert found.cause and found.cause.name == "unschedulable: GPU" and found.nodes_running == 2
    whole = status_of(replace(seen(job, pod(), pod(rank=1), pod(rank=2), events=(failed,)), settings=elastic))
    assert whole.phase is Phase.RUNNING and whole.cause is None


def test_restarts_are_counted_over_pods_that_are_gone() -> None:
    told = event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 137", count=2)
    asked = event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 143", count=5)
    new = pod(rank=1, state=waiting("ContainerCreating"), phase="Pending")
    found = status_of(seen(pytorchjob(), pod(), new, events=(told, asked)), max_restarts=3)
    assert found.shown_phase == "Restarting 2/3"
    more = status_of(seen(pytorchjob(), pod(), new, events=(told, asked)), max_restarts=1)
    assert more.shown_phase == "Restarting 2", "pods that never started count here, and not there"
    assert found.cause and found.cause.name == "out of memory"


def test_what_holds_a_restart_up_comes_before_what_caused_it() -> None:
    told = event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 137")
    new = pod(rank=1, unscheduled="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    found = run(pytorchjob(), pod(), new, events=(told,))
    assert found.phase is Phase.RESTARTING and found.cause
    assert found.cause.name == "unschedulable: GPU"


def test_runs_that_were_not_made_by_the_chart_are_runs_too() -> None:
    job = pytorchjob(helm=False, gpus=4)
    found = run(job, pod(helm=False), pod(rank=1, state=waiting("ImagePullBackOff", "x: not found"), helm=False))
    assert (found.phase, found.gpus) == (Phase.PENDING, 8)
    assert found.cause and found.cause.mend.startswith("correct its manifest, then: kubectl replace --force")


def test_the_events_of_a_run_are_not_those_of_one_whose_name_begins_alike() -> None:
    job, other = read_pytorchjob(pytorchjob()), read_pytorchjob(pytorchjob("run1-worker"))
    told = [
        read_event(event("Killing", "a", about="run1-worker-0", kind="Pod")),
        read_event(event("Killing", "b", about="run1-worker-master-0", kind="Pod")),
        read_event(event("Old", "c", last=10_000)),
    ]
    own = events_of_runs(told, [job, other], [])
    assert [e.message for e in own["team", "run1"]] == ["a"]
    assert [e.message for e in own["team", "run1-worker"]] == ["b"]


CONTAINERS = st.sampled_from(
    [
        None,
        {},
        waiting("ContainerCreating"),
        waiting("ImagePullBackOff", "not found"),
        ended(0),
        ended(64, "no"),
        ended(137, "", "OOMKilled"),
        ended(138),
        ended(143),
    ]
)
JOBS = st.sampled_from([(), ("Created",), ("Created", "Running"), ("Restarting",), ("Succeeded",), ("Failed",)])


@given(
    kind=st.sampled_from(["PyTorchJob", "TrainJob"]),
    states=JOBS,
    containers=st.lists(CONTAINERS, max_size=4),
    phases=st.lists(st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]), min_size=4, max_size=4),
    gone=st.sets(st.integers(0, 3)),
    unbound=st.sets(st.integers(0, 3)),
    suspend=st.booleans(),
    queue=st.sampled_from(["", "queue"]),
)
def test_whatever_is_seen_has_one_phase_and_the_laws_hold(
    kind: str,
    states: tuple[str, ...],
    containers: list[Object | None],
    phases: list[str],
    gone: set[int],
    unbound: set[int],
    suspend: bool,
    queue: str,
) -> None:
    job = job_of(kind, nodes=max(len(containers), 1), states=states, suspend=suspend, queue=queue)
    pods = [
        pod(
            rank=rank,
            state=state,
            phase=phases[rank],
            kind=kind,
            deleted=5 if rank in gone else None,
            node=None if rank in unbound else "worker-1",
        )
        for rank, state in enumerate(containers)
    ]
    found = run(job, *pods)
    assert found == run(job, *reversed(pods)), "the order of pods says nothing"
    assert found.nodes_running <= found.nodes
    if "Succeeded" in states:
        assert found.phase is Phase.SUCCEEDED
    elif "Failed" in states:
        assert found.phase is Phase.FAILED and found.cause
    elif suspend:
        assert found.phase in (Phase.STOPPED, Phase.QUEUED)
    else:
        assert not found.phase.is_end
    if found.phase is Phase.RUNNING:
        assert found.cause is None and not gone & set(range(len(containers)))
    if found.cause:
        assert "{" not in found.cause.sentence and "\n" not in found.cause.sentence + found.cause.mend
        assert found.cause.name in {row.name for row in CAUSES}
    data = data_of(found)
    assert data["phase"] == found.phase and len(data["pods"]) == len(containers)


def test_every_row_of_the_table_is_looked_for_somewhere() -> None:
    for row in CAUSES:
        assert row.stages and (row.sign is None) == (row.stages == (Stage.ASKING,)), row.name
