"""What the client uses of Kubernetes' objects, read from their raw JSON.

Nothing here asks the cluster or judges what is seen. Missing fields are None or empty: a job has no status until its
operator has seen it, and a pod none until the scheduler has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

Object = Mapping[str, Any]

NAME_LABEL, INSTANCE_LABEL = "app.kubernetes.io/name", "app.kubernetes.io/instance"
JOB_LABEL, REPLICA_TYPE, REPLICA_INDEX = (
    "training.kubeflow.org/job-name",
    "training.kubeflow.org/replica-type",
    "training.kubeflow.org/replica-index",
)
JOBSET_LABEL, COMPLETION_INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
GROUP_LABEL = "app.kubernetes.io/part-of"
"""Label of a job: the group that it belongs to, such as a sweep."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GPU_MEMORY, GPU_PRODUCT = "nvidia.com/gpu.memory", "nvidia.com/gpu.product"
"""Labels of nodes, set by NVIDIA's feature discovery: MiB of a GPU, and its name."""
GPU = re.compile(r"/(gpu|gpu\.shared|mig-[\w.-]+|i915|xe)$")
"""Resource names that count as GPUs: nvidia.com/gpu, nvidia.com/mig-1g.10gb, amd.com/gpu and the like."""


@dataclass(frozen=True)
class Condition:
    """One of an object's conditions. status: whether it is True."""

    type: str
    status: bool
    reason: str
    message: str
    since: datetime | None


@dataclass(frozen=True)
class Container:
    """A container of a pod, or what is known of it.

    state: `waiting`, `running` or `terminated`. reason, message: of that state. exit_code, message: of the last end,
    where it is terminated, or has been and was restarted in its pod (`was_terminated`).
    """

    name: str
    state: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    restarts: int = 0
    started: datetime | None = None
    ended: datetime | None = None
    init: bool = False


@dataclass(frozen=True)
class Pod:
    """job: the name of the PyTorchJob or TrainJob that it belongs to. rank: its node rank in the run, None where it has
    none. node: the machine that it is bound to, None until it is. image: of the trainer. trainer: the name of its
    container. claims: that it mounts."""

    name: str
    namespace: str
    uid: str
    job: str
    rank: int | None
    node: str | None
    phase: str
    created: datetime
    deleted: datetime | None = None
    reason: str = ""
    message: str = ""
    image: str = ""
    trainer: str = ""
    gpus: int = 0
    claims: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    containers: tuple[Container, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def main(self) -> Container | None:
        """The trainer's container, None until kubelet has reported it."""
        return next((c for c in self.containers if not c.init and c.name == self.trainer), None)

    @property
    def is_running(self) -> bool:
        """Whether the trainer runs in it."""
        return self.main is not None and self.main.state == "running"

    @property
    def is_done(self) -> bool:
        """Whether its trainer has ended well; the pod's phase follows a moment later."""
        if self.main is None or self.main.state != "terminated":
            return self.phase == "Succeeded"
        return self.main.exit_code == 0

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


@dataclass(frozen=True)
class Job:
    """A run's job. kind: `PyTorchJob` or `TrainJob`. nodes: pods that it wants. gpus: of all nodes, None where the job
    does not say (a TrainJob's runtime does). conditions: empty until its operator has seen it. queue: of Kueue.
    failed_pods: pods that have failed so far, where the job counts them (a TrainJob). processes: on each node."""

    kind: str
    name: str
    namespace: str
    uid: str
    created: datetime
    nodes: int
    gpus: int | None
    suspended: bool
    conditions: tuple[Condition, ...] = ()
    queue: str = ""
    deleted: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    failed_pods: int = 0
    runtime: str = ""
    image: str = ""
    processes: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def condition(self, *kinds: str) -> Condition | None:
        """The first condition of these types that is true."""
        return next((c for c in self.conditions if c.status and c.type in kinds), None)

    @property
    def is_helm(self) -> bool:
        """Whether it belongs to a release of the chart, under the job's own name."""
        return self.labels.get("app.kubernetes.io/managed-by") == "Helm"


@dataclass(frozen=True)
class Event:
    """Something that a component of the cluster has told. about: kind and name of the object; count: how often."""

    type: str
    reason: str
    message: str
    kind: str
    name: str
    namespace: str
    uid: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Workload:
    """Kueue's view of a job. owner: the job's uid. active: false where it was stopped by hand."""

    name: str
    owner: str
    queue: str
    active: bool
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


def time_of(text: str | None) -> datetime | None:
    """A time of the API, which is in UTC. None for none."""
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_pytorchjob(raw: Object) -> Job:
    """A PyTorchJob."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    replicas = [replica or {} for replica in (spec.get("pytorchReplicaSpecs") or {}).values()]
    counts = [replica.get("replicas", 1) for replica in replicas]
    templates = [(replica.get("template") or {}).get("spec") or {} for replica in replicas]
    gpus = sum(count * gpus_of(template) for count, template in zip(counts, templates, strict=True))
    return _job(
        raw,
        "PyTorchJob",
        nodes=sum(counts),
        gpus=gpus,
        suspended=bool((spec.get("runPolicy") or {}).get("suspend")),
        started=time_of(status.get("startTime")),
        ended=time_of(status.get("completionTime")),
        image=next((image_of(template) for template in templates), ""),
        processes=_count(spec.get("nprocPerNode")),
    )


def read_trainjob(raw: Object) -> Job:
    """A TrainJob of Kubeflow Trainer v2. GPUs are not in it: its runtime says them."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    trainer = spec.get("trainer") or {}
    jobs = status.get("jobsStatus") or []
    nodes = trainer.get("numNodes") or 1
    resources = trainer.get("resourcesPerNode")
    return _job(
        raw,
        "TrainJob",
        nodes=nodes,
        gpus=None if resources is None else nodes * _count_gpus(resources),
        suspended=bool(spec.get("suspend")),
        failed_pods=sum(job.get("failed", 0) for job in jobs),
        runtime=(spec.get("runtimeRef") or {}).get("name", ""),
        image=trainer.get("image", ""),
        processes=_count(trainer.get("numProcPerNode")),
    )


def runtime_gpus(raw: Object) -> int:
    """GPUs of each node of a TrainingRuntime."""
    template = ((raw.get("spec") or {}).get("template") or {}).get("spec") or {}
    found = 0
    for job in template.get("replicatedJobs") or []:
        job_spec = ((job.get("template") or {}).get("spec") or {}).get("template") or {}
        found = max(found, gpus_of(job_spec.get("spec") or {}))
    return found


def _job(raw: Object, kind: str, **facts: Any) -> Job:
    meta, status = raw["metadata"], raw.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = _conditions(status)
    ends = [c.since for c in conditions if c.status and c.type in ("Succeeded", "Failed", "Complete")]
    facts["ended"] = facts.get("ended") or next((end for end in ends if end), None)
    return Job(
        kind=kind,
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        created=time_of(meta.get("creationTimestamp")) or datetime.now(UTC),
        conditions=conditions,
        queue=labels.get(QUEUE_LABEL, ""),
        deleted=time_of(meta.get("deletionTimestamp")),
        labels=labels,
        **facts,
    )


def read_pod(raw: Object) -> Pod:
    """A pod of a run, or any other."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    labels = meta.get("labels") or {}
    return Pod(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        job=labels.get(JOB_LABEL) or labels.get(JOBSET_LABEL) or "",
        rank=_rank(meta, labels),
        node=spec.get("nodeName"),
        phase=status.get("phase", "Pending"),
        created=time_of(meta.get("creationTimestamp")) or datetime.now(UTC),
        deleted=time_of(meta.get("deletionTimestamp")),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        image=image_of(spec),
        trainer=_trainer(spec),
        gpus=gpus_of(spec),
        claims=tuple(
            volume["persistentVolumeClaim"].get("claimName", "")
            for volume in spec.get("volumes") or ()
            if "persistentVolumeClaim" in volume
        ),
        conditions=_conditions(status),
        containers=tuple(
            _container(container, init)
            for key, init in (("initContainerStatuses", True), ("containerStatuses", False))
            for container in status.get(key) or ()
        ),
        labels=labels,
    )


def read_event(raw: Object) -> Event:
    """An event, of either of its two APIs."""
    about = raw.get("involvedObject") or raw.get("regarding") or {}
    series = raw.get("series") or {}
    made = raw["metadata"].get("creationTimestamp")
    first = time_of(raw.get("firstTimestamp") or raw.get("eventTime") or made) or datetime.now(UTC)
    last = time_of(series.get("lastObservedTime") or raw.get("lastTimestamp") or raw.get("eventTime") or made) or first
    return Event(
        type=raw.get("type", "Normal"),
        reason=raw.get("reason", ""),
        message=" ".join((raw.get("message") or raw.get("note") or "").split()),
        kind=about.get("kind", ""),
        name=about.get("name", ""),
        namespace=about.get("namespace") or raw["metadata"].get("namespace", ""),
        uid=about.get("uid", ""),
        count=series.get("count") or raw.get("count") or raw.get("deprecatedCount") or 1,
        first=first,
        last=last,
    )


def read_workload(raw: Object) -> Workload:
    """A Workload of Kueue."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    owners = meta.get("ownerReferences") or []
    owner = next((o for o in owners if o.get("controller")), owners[0] if owners else {})
    return Workload(
        name=meta["name"],
        owner=owner.get("uid", ""),
        queue=spec.get("queueName", ""),
        active=spec.get("active", True) is not False,
        conditions=_conditions(raw.get("status") or {}),
    )


def gpus_of(spec: Object) -> int:
    """GPUs that a pod of this spec takes."""
    return sum(_count_gpus(container.get("resources") or {}) for container in spec.get("containers") or ())


def image_of(spec: Object) -> str:
    """The image of the trainer's container."""
    name = _trainer(spec)
    return next((c.get("image", "") for c in spec.get("containers") or () if c.get("name") == name), "")


def _count_gpus(resources: Object) -> int:
    limits = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return sum(int(count) for name, count in limits.items() if GPU.search(name) and str(count).isdigit())


def _count(value: Any) -> int:
    """A number of processes; 1 where there is none, or a word such as `auto`."""
    return int(value) if str(value).isdigit() else 1


def _trainer(spec: Object) -> str:
    """The name of the container that trains: `pytorch` or `node`, as the operators want it, else the first."""
    names = [container.get("name", "") for container in spec.get("containers") or ()]
    return next((name for name in names if name in ("pytorch", "node")), names[0] if names else "")


def _rank(meta: Object, labels: Mapping[str, str]) -> int | None:
    annotations = meta.get("annotations") or {}
    index = labels.get(COMPLETION_INDEX) or annotations.get(COMPLETION_INDEX)
    if index is not None:
        return int(index)
    index = labels.get(REPLICA_INDEX)
    if index is None or not index.isdigit():
        return None
    return 0 if labels.get(REPLICA_TYPE, "").lower() == "master" else int(index) + 1


def _conditions(status: Object) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            c.get("type", ""),
            str(c.get("status")) == "True",
            c.get("reason") or "",
            " ".join((c.get("message") or "").split()),
            time_of(c.get("lastTransitionTime")),
        )
        for c in status.get("conditions") or ()
    )


def _container(raw: Object, init: bool) -> Container:
    state, detail = next(iter((raw.get("state") or {"waiting": {}}).items()))
    detail = detail or {}
    last = (raw.get("lastState") or {}).get("terminated") or {}
    ended = detail if state == "terminated" else last
    message = detail.get("message") or (last.get("message") if state == "waiting" else "") or ""
    return Container(
        name=raw.get("name", ""),
        state=state,
        reason=detail.get("reason") or "",
        message=message.strip(),
        exit_code=ended.get("exitCode"),
        restarts=raw.get("restartCount", 0),
        started=time_of((detail if state == "running" else ended).get("startedAt")),
        ended=time_of(ended.get("finishedAt")),
        init=init,
    )
