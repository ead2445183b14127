"""The phase of a run, from what is seen of it: pure, without a cluster.

Phases come from the pods: that a PyTorchJob is Running only means that its master is, and a job has no status at all
before its operator has seen it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from distrain_k8s.diagnose.causes import Cause, Stage, cause_of
from distrain_k8s.diagnose.endings import exits, told_exits
from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.kube.objects import Pod

ENDS_WELL, ENDS_BADLY = ("Succeeded", "Complete"), ("Failed",)


class Phase(StrEnum):
    """Where a run stands.

    Pending: something holds it up, or nobody has taken it on yet. Queued: it waits for quota. Starting: its pods have
    machines, and not all of them run yet. Running: all pods run, or with `elastic.min_nodes` enough of them to go on.
    Restarting: it has run, and not all pods do now.
    Succeeded, Failed: it has ended. Stopped: it was suspended, or is being removed.
    """

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @property
    def is_end(self) -> bool:
        """Whether nothing follows without somebody's doing."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED)


@dataclass(frozen=True)
class PodStatus:
    """One node of a run. state: `Running`, `Pending`, `ImagePullBackOff`, `OOMKilled (137)` and the like."""

    rank: int | None
    name: str
    state: str
    node: str | None
    age_seconds: float


@dataclass(frozen=True)
class Run:
    """A run, as it stands. kind: `PyTorchJob` or `TrainJob`. cause: what holds it up, restarts it or has ended it.
    seconds: from its creation to its end, or until now. nodes, nodes_running: pods. gpus: of all nodes, None where
    nothing says how many. restarts: that the cluster remembers. max_restarts: None where that is not known."""

    name: str
    namespace: str
    kind: str
    phase: Phase
    cause: Cause | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    seconds: float
    nodes: int
    nodes_running: int
    gpus: int | None
    restarts: int = 0
    max_restarts: int | None = None
    queue: str = ""
    image: str = ""
    pods: tuple[PodStatus, ...] = ()

    @property
    def shown_phase(self) -> str:
        """The phase, with the number of the restart where it is one: `Restarting 1/3`."""
        if self.phase is not Phase.RESTARTING:
            return str(self.phase)
        # Pods that never started are made again too, which the trainer does not count.
        known = self.max_restarts is not None and self.restarts <= self.max_restarts
        return f"{self.phase} {max(self.restarts, 1)}{f'/{self.max_restarts}' if known else ''}"


def status_of(seen: Evidence, max_restarts: int | None = None) -> Run:
    """How a run stands. max_restarts: where its settings are known."""
    phase = phase_of(seen)
    job, pods = seen.job, list(seen.current.values())
    ended = job.ended if phase.is_end else None
    gpus = job.gpus
    if gpus is None and pods:
        gpus = job.nodes * max(pod.gpus for pod in pods)
    return Run(
        name=job.name,
        namespace=job.namespace,
        kind=job.kind,
        phase=phase,
        cause=_cause(seen, phase),
        created=job.created,
        started=job.started,
        ended=ended,
        seconds=((ended or seen.now) - job.created).total_seconds(),
        nodes=job.nodes,
        nodes_running=sum(pod.is_running and pod.deleted is None for pod in pods),
        gpus=gpus,
        restarts=exits(seen),
        max_restarts=max_restarts,
        queue=job.queue,
        image=job.image or next((pod.image for pod in pods), ""),
        pods=tuple(_pod_status(pod, seen.now) for pod in pods),
    )


def phase_of(seen: Evidence) -> Phase:
    """The phase alone."""
    job = seen.job
    if job.condition(*ENDS_WELL):
        return Phase.SUCCEEDED
    if job.condition(*ENDS_BADLY):
        return Phase.FAILED
    if job.deleted:
        return Phase.STOPPED
    if job.suspended:
        by_hand = seen.workload is not None and not seen.workload.active
        return Phase.STOPPED if by_hand or not job.queue else Phase.QUEUED
    there = _there(seen)
    if len(there) >= max(job.nodes, 1):
        return Phase.RUNNING
    if has_run(seen):
        return Phase.RUNNING if 0 in there and len(there) >= _fewest(seen) else Phase.RESTARTING
    live = [pod for pod in seen.current.values() if pod.deleted is None]
    if any(pod.node for pod in live) and cause_of(seen, Stage.HOLDING) is None:
        return Phase.STARTING
    return Phase.PENDING


def _there(seen: Evidence) -> set[int]:
    """Ranks of the nodes whose pods run, or are done."""
    live = {rank: pod for rank, pod in seen.current.items() if pod.deleted is None}
    return {rank for rank, pod in live.items() if pod.is_running or pod.is_done}


def _fewest(seen: Evidence) -> int:
    """Nodes with which the run goes on, as far as its settings are known."""
    text = seen.settings.get("DISTRAIN_ELASTIC__MIN_NODES", "")
    return int(text) if text.isdigit() else max(seen.job.nodes, 1)


def has_run(seen: Evidence) -> bool:
    """Whether a pod of this job has failed, left or been lost, so that what starts now starts again."""
    job = seen.job
    if job.condition("Restarting") or job.failed_pods or seen.earlier:
        return True
    if any(pod.deleted or pod.phase in ("Failed", "Unknown") for pod in seen.pods):
        return True
    return bool(told_exits(seen))


def _cause(seen: Evidence, phase: Phase) -> Cause | None:
    match phase:
        case Phase.FAILED:
            return cause_of(seen, Stage.FAILED)
        case Phase.QUEUED:
            return cause_of(seen, Stage.QUEUED)
        case Phase.PENDING:
            return cause_of(seen, Stage.HOLDING)
        case Phase.RUNNING if len(_there(seen)) < seen.job.nodes:
            return cause_of(seen, Stage.RESTARTING)
        case Phase.RESTARTING:
            return cause_of(seen, Stage.RESTARTING)
        case Phase.STOPPED if seen.job.deleted:
            return Cause("removed", "the run is being removed")
    return None


def data_of(run: Run) -> dict[str, Any]:
    """A run as plain data, for json and yaml. The names are a contract."""
    cause = run.cause
    return {
        "name": run.name,
        "namespace": run.namespace,
        "kind": run.kind,
        "phase": str(run.phase),
        "cause": {"name": cause.name, "sentence": cause.sentence, "mend": cause.mend} if cause else None,
        "created": run.created,
        "started": run.started,
        "ended": run.ended,
        "seconds": round(run.seconds),
        "nodes": run.nodes,
        "nodes_running": run.nodes_running,
        "gpus": run.gpus,
        "restarts": run.restarts,
        "max_restarts": run.max_restarts,
        "queue": run.queue or None,
        "image": run.image or None,
        "pods": [{"node": pod.rank, "name": pod.name, "state": pod.state, "machine": pod.node} for pod in run.pods],
    }


def _pod_status(pod: Pod, now: datetime) -> PodStatus:
    return PodStatus(pod.rank, pod.name, _state(pod), pod.node, (now - pod.created).total_seconds())


def _state(pod: Pod) -> str:
    """One word for a pod, as kubectl would choose it."""
    if pod.deleted:
        return "Terminating"
    if pod.reason:
        return pod.reason
    for container in pod.containers:
        if container.init and container.state != "terminated":
            return f"Init:{container.reason}" if container.reason else "Init"
    trainer = pod.main
    if trainer is None or trainer.state == "running":
        return pod.phase
    if trainer.state == "terminated" and trainer.exit_code:
        return f"{trainer.reason or 'Error'} ({trainer.exit_code})"
    return trainer.reason or pod.phase
