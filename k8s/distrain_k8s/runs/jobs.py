"""The job of a run in the cluster: found under either kind, suspended, and made again."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from distrain_k8s.errors import ClientError, Conflict, ConnectionLost, Forbidden, HalfMade, NotFound, NotServed
from distrain_k8s.kube.client import Api, Object
from distrain_k8s.kube.objects import (
    JOB_LABEL,
    JOBSET_LABEL,
    Job,
    Workload,
    read_pytorchjob,
    read_trainjob,
    read_workload,
)
from distrain_k8s.kube.resources import PODS, PYTORCHJOBS, TRAINJOBS, WORKLOADS, Resource

KINDS = (
    (PYTORCHJOBS, read_pytorchjob, ("spec", "runPolicy", "suspend")),
    (TRAINJOBS, read_trainjob, ("spec", "suspend")),
)
ENDS = ("Succeeded", "Complete", "Failed")
OWN_METADATA = ("name", "namespace", "labels", "annotations")
KUEUES_MANAGER = "kueue.x-k8s.io/"
"""What the manager of a patch of Kueue's begins with: it adds that to each TrainJob that is made, and not twice."""
PAUSE = 0.5
"""Seconds between two looks at what goes away."""


@dataclass(frozen=True)
class Found:
    """A run's job. raw: as the API has it. suspend: the path of its field."""

    job: Job
    raw: Object
    resource: Resource
    suspend: tuple[str, ...]

    @property
    def ended(self) -> str | None:
        """`Succeeded`, `Complete` or `Failed`; None where it has not ended."""
        condition = self.job.condition(*ENDS)
        return condition.type if condition else None

    @property
    def grace(self) -> int:
        """Seconds that its pods have to end."""
        spec = self.raw["spec"]
        replicas = spec.get("pytorchReplicaSpecs") or {}
        given = [r.get("template", {}).get("spec", {}).get("terminationGracePeriodSeconds") for r in replicas.values()]
        return max((seconds for seconds in given if seconds is not None), default=120)


def find_job(api: Api, name: str, namespace: str | None = None) -> Found:
    """A run's job, of either kind. Raises NotFound, with the name that may have been meant, and NotServed where the
    cluster has neither kind."""
    missing: list[NotFound] = []
    for resource, read, suspend in KINDS:
        try:
            raw = api.get(resource, name, namespace)
        except NotFound as error:
            missing.append(error)
            continue
        return Found(read(raw), raw, resource, suspend)
    if all(isinstance(error, NotServed) for error in missing):
        raise missing[0]
    where = namespace or api.namespace
    near = get_close_matches(name, _names(api, where), n=1)
    hint = f"did you mean {near[0]}?" if near else f"distrain list -n {where} shows what is there"
    raise NotFound(f"there is no run {name} in the namespace {where}; {hint}", "run", name)


def _names(api: Api, namespace: str) -> Iterator[str]:
    """The names of all jobs that may be listed."""
    for resource, _, _ in KINDS:
        with suppress(NotServed, Forbidden):
            yield from (job["metadata"]["name"] for job in api.list(resource, namespace))


def workload_of(api: Api, job: Job) -> Workload | None:
    """Kueue's view of a job; None where Kueue does not manage it."""
    if not job.queue:
        return None
    try:
        found = [read_workload(raw) for raw in api.list(WORKLOADS)]
    except NotServed:
        return None
    return next((workload for workload in found if workload.owner == job.uid), None)


def set_suspended(api: Api, found: Found, suspended: bool) -> None:
    """Suspends the job or lets it run; on Kueue by its Workload, since Kueue would undo anything else."""
    workload = workload_of(api, found.job)
    if workload is not None:
        api.patch(WORKLOADS, workload.name, {"spec": {"active": not suspended}})
        return
    body: Any = suspended
    for part in reversed(found.suspend):
        body = {part: body}
    api.patch(found.resource, found.job.name, body)


def is_stopped(api: Api, found: Found) -> bool:
    """Whether a person has stopped it: suspended, or made inactive on Kueue, whose own suspension means waiting."""
    workload = workload_of(api, found.job)
    return not workload.active if workload is not None else found.job.suspended


def pods_of(api: Api, name: str) -> list[Object]:
    """The pods of a job, also those that are going."""
    return [pod for label in (JOB_LABEL, JOBSET_LABEL) for pod in api.list(PODS, labels=f"{label}={name}")]


def replace_job(api: Api, found: Found, say: Callable[[str], None]) -> None:
    """Removes the job and makes it anew, as it was. Raises HalfMade where it was removed and cannot be made."""
    body = fresh(found)
    remove_job(api, found, say)
    name = found.job.name
    try:
        api.patient(60).create(found.resource, body)
    except (Conflict, ConnectionLost):
        find_job(api, name)  # made by the try whose answer was lost
    except ClientError as error:
        raise HalfMade(
            f"the job {name} was removed and could not be made again ({error}); its checkpoints are kept: type "
            f"distrain resume {name} again"
        ) from None


def remove_job(api: Api, found: Found, say: Callable[[str], None]) -> None:
    """Removes the job and waits until it and its pods are gone, as new ones have the same names."""
    name = found.job.name
    with suppress(NotFound):
        api.delete(found.resource, name)
    wait_until_gone(api, name, found.grace + 60, say, found.resource)


def wait_until_gone(
    api: Api, name: str, limit: float, say: Callable[[str], None], resource: Resource | None = None
) -> None:
    """Waits until a job (where `resource` is given) and its pods that have not ended are gone. Raises ClientError."""
    started, told = time.monotonic(), False
    while True:
        pods = pods_of(api, name)
        left = [p for p in pods if resource or p.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
        if not left and not (resource and _is_there(api, resource, name)):
            return
        if time.monotonic() - started > limit:
            names = ", ".join(pod["metadata"]["name"] for pod in left) or f"the job {name}"
            raise ClientError(f"{names} did not end within {limit:.0f} s; look at them with distrain events {name}")
        if left and not told and time.monotonic() - started > 2:
            told = True
            say(f"waiting for {len(left)} pod{'s' if len(left) > 1 else ''} of {name} to write a checkpoint and end")
        time.sleep(PAUSE)


def _is_there(api: Api, resource: Resource, name: str) -> bool:
    try:
        api.get(resource, name)
    except NotFound:
        return False
    return True


def fresh(found: Found) -> Object:
    """The manifest of a job that has run, as it was before: it is not suspended, and what the cluster has added is
    gone."""
    raw = found.raw
    metadata = {name: raw["metadata"][name] for name in OWN_METADATA if name in raw["metadata"]}
    spec: Object = dict(raw["spec"])
    *sections, last = found.suspend[1:]
    node = spec
    for section in sections:
        node[section] = dict(node.get(section) or {})
        node = node[section]
    node.pop(last, None)
    if patches := spec.get("runtimePatches"):
        spec["runtimePatches"] = [patch for patch in patches if not patch["manager"].startswith(KUEUES_MANAGER)]
    return {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": metadata, "spec": spec}
