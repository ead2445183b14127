"""Asks the cluster what there is to see of runs: in as few requests as it takes.

For a list: the jobs of each kind, their pods, and, where a run is neither running nor well ended, what explains it
(events, workloads). For one run: its job, its pods, and the same. Labels only; Helm's Secrets are never read.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from distrain_k8s.diagnose.evidence import Evidence, events_of_runs
from distrain_k8s.diagnose.redact import redacted_text
from distrain_k8s.errors import Forbidden, NotServed
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import (
    JOB_LABEL,
    JOBSET_LABEL,
    NAME_LABEL,
    Event,
    Job,
    Pod,
    Workload,
    read_event,
    read_pod,
    read_workload,
    runtime_gpus,
)
from distrain_k8s.kube.resources import (
    CONFIG_MAPS,
    EVENTS,
    PODS,
    RUNTIMES,
    WORKLOADS,
    Resource,
)
from distrain_k8s.runs.jobs import KINDS, find_job
from distrain_k8s.runs.status import Phase, Run, phase_of, status_of

OURS = f"{NAME_LABEL}=distrain"
Object = dict[str, Any]


def list_runs(
    api: Api,
    foreign: bool = False,
    everywhere: bool = False,
    labels: str = "",
    namespace: str | None = None,
) -> list[Run]:
    """The runs of a namespace, the newest first.

    foreign: also jobs that do not come from distrain's chart. everywhere: of all namespaces. labels: a selector of the
    jobs. Raises NotServed where the cluster has neither kind of job.
    """
    selector = ",".join(part for part in ("" if foreign else OURS, labels) if part)
    place: dict[str, Any] = {"everywhere": everywhere, "namespace": namespace}
    jobs = _jobs(api, selector, place)
    if not jobs:
        return []
    pods = _pods(api, jobs, foreign, place)
    now = datetime.now(UTC)
    seen = [Evidence(job, tuple(pods[_key(job)]), now) for job in jobs]
    seen = _explained(api, seen, place)
    runs = [status_of(evidence, max_restarts(evidence)) for evidence in seen]
    return sorted(runs, key=lambda run: run.created, reverse=True)


def find_run(api: Api, name: str, namespace: str | None = None) -> Run:
    """One run. Raises NotFound, with the name that may have been meant."""
    evidence = observe(api, name, namespace)
    return status_of(evidence, max_restarts(evidence))


def observe(api: Api, name: str, namespace: str | None = None, events: bool = False) -> Evidence:
    """What is seen of one run. events: whether they are wanted in any case, and not only where something is wrong."""
    job = find_job(api, name, namespace).job
    place: dict[str, Any] = {"namespace": job.namespace}
    label = JOB_LABEL if job.kind == "PyTorchJob" else JOBSET_LABEL
    pods = tuple(read_pod(raw) for raw in api.list(PODS, labels=f"{label}={name}", **place))
    [seen] = _explained(api, [Evidence(job, pods, datetime.now(UTC))], place, events)
    return seen


def max_restarts(seen: Evidence) -> int | None:
    """`checkpoint.max_restarts` of a run that is being restarted; None where it is not known."""
    if not seen.settings:
        return None
    if text := seen.settings.get("DISTRAIN_CHECKPOINT__MAX_RESTARTS"):
        return int(text) if text.isdigit() else None
    from distrain_trainer.settings.model import Settings

    return Settings().checkpoint.max_restarts


def _jobs(api: Api, selector: str, place: Mapping[str, Any]) -> list[Job]:
    """Jobs of both kinds; a kind that the cluster does not have, or that the user may not see, has none."""
    found: list[Job] = []
    missing: list[NotServed | Forbidden] = []
    for resource, read, _ in KINDS:
        try:
            found += [read(raw) for raw in api.list(resource, labels=selector, **place)]
        except (NotServed, Forbidden) as error:
            missing.append(error)
    if len(missing) == len(KINDS) or (missing and isinstance(missing[0], Forbidden)):
        raise missing[0]
    return _with_gpus(api, found, place)


def _with_gpus(api: Api, jobs: list[Job], place: Mapping[str, Any]) -> list[Job]:
    """TrainJobs with the GPUs of their runtimes."""
    if all(job.gpus is not None for job in jobs):
        return jobs
    runtimes = {_named(raw): runtime_gpus(raw) for raw in _optional(api, RUNTIMES, place)}
    return [
        replace(job, gpus=job.nodes * runtimes[job.namespace, job.runtime])
        if job.gpus is None and (job.namespace, job.runtime) in runtimes
        else job
        for job in jobs
    ]


def _pods(
    api: Api, jobs: Iterable[Job], foreign: bool, place: Mapping[str, Any]
) -> defaultdict[tuple[str, str, str], list[Pod]]:
    """Pods of all jobs: kind, namespace and name of the job -> its pods."""
    found: defaultdict[tuple[str, str, str], list[Pod]] = defaultdict(list)
    kinds = {job.kind for job in jobs}
    selectors = [OURS]
    if foreign:
        selectors = [label for label, kind in ((JOB_LABEL, "PyTorchJob"), (JOBSET_LABEL, "TrainJob")) if kind in kinds]
    for selector in selectors:
        for raw in api.list(PODS, labels=selector, **place):
            pod = read_pod(raw)
            kind = "PyTorchJob" if JOB_LABEL in pod.labels else "TrainJob"
            found[kind, pod.namespace, pod.job].append(pod)
    return found


def _explained(api: Api, seen: list[Evidence], place: Mapping[str, Any], always: bool = False) -> list[Evidence]:
    """The same with what explains each run that needs it: events, its workload, its settings."""
    phases = [phase_of(evidence) for evidence in seen]
    events: list[Event] = []
    if always or any(phase not in (Phase.RUNNING, Phase.SUCCEEDED, Phase.STOPPED) for phase in phases):
        events = [_without_secrets(read_event(raw)) for raw in _optional(api, EVENTS, place)]
    own = events_of_runs(events, (e.job for e in seen), (pod for e in seen for pod in e.pods))
    workloads: dict[str, Workload] = {}
    if any(evidence.job.queue and evidence.job.suspended for evidence in seen):
        workloads = {w.owner: w for w in map(read_workload, _optional(api, WORKLOADS, place))}
    told = [replace(e, events=own[e.job.namespace, e.job.name], workload=workloads.get(e.job.uid)) for e in seen]
    if not any(phase_of(evidence) is Phase.RESTARTING for evidence in told):
        return told
    maps = {_named(raw): raw.get("data") or {} for raw in _optional(api, CONFIG_MAPS, place, OURS)}
    return [
        replace(evidence, settings=maps.get((evidence.job.namespace, f"{evidence.job.name}-settings"), {}))
        for evidence in told
    ]


def _without_secrets(event: Event) -> Event:
    """An event may name an address with a password in it."""
    return replace(event, message=redacted_text(event.message))


def _optional(api: Api, resource: Resource, place: Mapping[str, Any], labels: str = "") -> list[Object]:
    """What helps to explain, and is done without where it is not there or not allowed."""
    try:
        return api.list(resource, labels=labels, **place)
    except (NotServed, Forbidden):
        return []


def _named(raw: Object) -> tuple[str, str]:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _key(job: Job) -> tuple[str, str, str]:
    return job.kind, job.namespace, job.name
