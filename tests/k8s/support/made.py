"""Kubernetes' objects of runs, as raw JSON, as the operators and kubelet write them."""

from datetime import UTC, datetime, timedelta
from typing import Any

Object = dict[str, Any]
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
IMAGE = "registry.example.com/team/distrain:1"


def ago(seconds: float) -> str:
    """So many seconds before NOW, as Kubernetes writes a time."""
    return f"{NOW - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def conditions(*types: str, **messages: str) -> list[Object]:
    """True conditions; a type with a minus before it is false."""
    return [
        {
            "type": name.lstrip("-"),
            "status": "False" if name.startswith("-") else "True",
            "reason": f"PyTorchJob{name.lstrip('-')}",
            "message": messages.get(name.lstrip("-"), ""),
            "lastTransitionTime": ago(10),
            "lastUpdateTime": ago(10),
        }
        for name in types
    ]


def labels_of(name: str, helm: bool = True) -> dict[str, str]:
    if not helm:
        return {}
    return {
        "app.kubernetes.io/name": "distrain",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/managed-by": "Helm",
    }


def pytorchjob(
    name: str = "run1",
    nodes: int = 2,
    states: tuple[str, ...] = ("Created", "Running"),
    gpus: int = 0,
    suspend: bool = False,
    queue: str = "",
    age: float = 600,
    helm: bool = True,
    message: str = "",
) -> Object:
    """A PyTorchJob. states: its conditions; none for one that no operator has seen."""
    container: Object = {"name": "pytorch", "image": IMAGE}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}, "requests": {"cpu": "3"}}
    replica = {"restartPolicy": "ExitCode", "template": {"spec": {"containers": [container]}}}
    replicas = {"Master": {"replicas": 1, **replica}}
    if nodes > 1:
        replicas["Worker"] = {"replicas": nodes - 1, **replica}
    found = conditions(*states, **{state.lstrip("-"): message for state in states})
    status: Object = {"conditions": found, "startTime": ago(age)} if states else {}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": ago(age),
            "labels": labels_of(name, helm) | ({"kueue.x-k8s.io/queue-name": queue} if queue else {}),
        },
        "spec": {
            "nprocPerNode": str(max(gpus, 1)),
            "runPolicy": {"cleanPodPolicy": "Running", "suspend": suspend},
            "pytorchReplicaSpecs": replicas,
        },
        "status": status,
    }


def trainjob(
    name: str = "run1",
    nodes: int = 2,
    states: tuple[str, ...] = (),
    suspend: bool = False,
    failed: int = 0,
    queue: str = "",
    age: float = 600,
    seen: bool = True,
) -> Object:
    """A TrainJob of Trainer v2, which has no condition while it runs."""
    status: Object = {"conditions": conditions(*states)} if states else {}
    if seen:
        status["jobsStatus"] = [{"name": "node", "active": nodes, "failed": failed, "ready": 0, "succeeded": 0}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": ago(age),
            "labels": labels_of(name) | ({"kueue.x-k8s.io/queue-name": queue} if queue else {}),
        },
        "spec": {
            "suspend": suspend,
            "runtimeRef": {"name": name},
            "trainer": {"numNodes": nodes, "numProcPerNode": 1},
        },
        "status": status,
    }


def pod(
    run: str = "run1",
    rank: int = 0,
    state: Object | None = None,
    phase: str = "Running",
    kind: str = "PyTorchJob",
    node: str | None = "worker-1",
    age: float = 300,
    uid: str = "",
    deleted: float | None = None,
    helm: bool = True,
    unscheduled: str = "",
    **status: Any,
) -> Object:
    """A pod of a run. state: of its container, running if None and empty if there is none yet. deleted: seconds since
    it should have been gone. unscheduled: what the scheduler says."""
    container = "pytorch" if kind == "PyTorchJob" else "node"
    if kind == "PyTorchJob":
        name = f"{run}-master-0" if rank == 0 else f"{run}-worker-{rank - 1}"
        labels = {
            "training.kubeflow.org/job-name": run,
            "training.kubeflow.org/replica-type": "worker" if rank else "master",
            "training.kubeflow.org/replica-index": str(max(rank - 1, 0)),
        }
    else:
        name = f"{run}-node-0-{rank}-{uid or 'abcde'}"
        labels = {"jobset.sigs.k8s.io/jobset-name": run, "batch.kubernetes.io/job-completion-index": str(rank)}
    state = {"running": {"startedAt": ago(age - 5)}} if state is None else state
    if unscheduled:
        node, phase, state = None, "Pending", {}
        status["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unscheduled}
        ]
    if state:
        status["containerStatuses"] = [{"name": container, "state": state, "restartCount": 0}]
    metadata: Object = {
        "name": name,
        "namespace": "team",
        "uid": uid or f"uid-{name}",
        "creationTimestamp": ago(age),
        "labels": (labels_of(run) if helm else {}) | labels,
    }
    if deleted is not None:
        metadata["deletionTimestamp"] = ago(deleted)
    spec: Object = {
        "containers": [{"name": container, "image": IMAGE}],
        "volumes": [{"name": "out", "persistentVolumeClaim": {"claimName": f"{run}-checkpoint"}}],
    }
    if node:
        spec["nodeName"] = node
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": phase, **status}}


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def ended(code: int, message: str = "", reason: str = "") -> Object:
    reason = reason or ("Completed" if code == 0 else "Error")
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": ago(200),
            "finishedAt": ago(20),
        }
    }


def event(
    reason: str,
    message: str,
    about: str = "run1",
    kind: str = "PyTorchJob",
    count: int = 1,
    last: float = 15,
    uid: str = "",
    warning: bool = True,
) -> Object:
    return {
        "metadata": {"name": f"{about}.{abs(hash((reason, message, uid))):x}", "namespace": "team"},
        "involvedObject": {"kind": kind, "name": about, "namespace": "team", "uid": uid},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "count": count,
        "firstTimestamp": ago(last + 60),
        "lastTimestamp": ago(last),
    }


def workload(
    job: str = "run1", active: bool = True, states: tuple[str, ...] = ("-QuotaReserved",), message: str = ""
) -> Object:
    return {
        "metadata": {
            "name": f"pytorchjob-{job}-12345",
            "namespace": "team",
            "ownerReferences": [{"kind": "PyTorchJob", "name": job, "uid": f"uid-{job}", "controller": True}],
        },
        "spec": {"active": active, "queueName": "queue"},
        "status": {"conditions": conditions(*states, **{state.lstrip("-"): message for state in states})},
    }


def runtime(name: str = "run1", gpus: int = 8) -> Object:
    container = {"name": "node", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    job = {"template": {"spec": {"template": {"spec": {"containers": [container]}}}}}
    return {
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }
