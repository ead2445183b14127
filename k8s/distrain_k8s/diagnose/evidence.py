"""What is seen of one run: its job, its pods, and what the cluster has told about them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from distrain_k8s.kube.objects import Container, Event, Job, Pod, Workload

MADE = re.compile(r"(?P<job>.+?)-((master|worker)-\d+|node-0(-\d+-\w+)?|checkpoint)")


@dataclass(frozen=True)
class Evidence:
    """pods: all of the run, also earlier ones that are still there. now: when it was looked at. events: about the job,
    its pods, present and former, and their claims, oldest first; empty where they were not asked for. workload:
    of Kueue, None for none. settings: the run's, as environment variables; empty where they are not known."""

    job: Job
    pods: tuple[Pod, ...]
    now: datetime
    events: tuple[Event, ...] = ()
    workload: Workload | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranked = sorted(self.pods, key=lambda pod: (pod.rank is None, pod.rank or 0, pod.created, pod.uid))
        object.__setattr__(self, "pods", tuple(ranked))  # the API server gives no order, and none may matter

    @cached_property
    def current(self) -> dict[int, Pod]:
        """Node rank -> the pod that counts for it: the newest, and one that is not being removed if there is one."""
        found: dict[int, Pod] = {}
        for pod in sorted(self.pods, key=lambda pod: (pod.deleted is None, pod.created)):
            if pod.rank is not None:
                found[pod.rank] = pod
        return dict(sorted(found.items()))

    @cached_property
    def earlier(self) -> tuple[Pod, ...]:
        """Pods of former attempts that are still there."""
        return tuple(pod for pod in self.pods if pod not in self.current.values())

    @property
    def age(self) -> float:
        """Seconds since the job was made."""
        return (self.now - self.job.created).total_seconds()

    def about(self, pod: Pod, *reasons: str) -> Iterator[Event]:
        """Events about this very pod, the newest first."""
        for event in reversed(self.events):
            if (
                event.kind == "Pod"
                and event.uid in (pod.uid, "")
                and event.name == pod.name
                and event.reason in reasons
            ):
                yield event

    def about_job(self, *reasons: str) -> Iterator[Event]:
        """Events about the job and the jobs that were made for it, the newest first."""
        for event in reversed(self.events):
            if event.kind not in ("Pod", "PersistentVolumeClaim") and event.reason in reasons:
                yield event

    def ended(self) -> list[tuple[Pod, Container]]:
        """Trainers that have ended with an error, the first one first."""
        found = [(pod, pod.main) for pod in self.pods if pod.main is not None and pod.main.exit_code]
        return sorted(found, key=lambda entry: entry[1].ended or entry[0].created)


def events_of_runs(
    events: Iterable[Event], jobs: Iterable[Job], pods: Iterable[Pod]
) -> defaultdict[tuple[str, str], tuple[Event, ...]]:
    """Namespace and name of a job -> events about it, its pods, present and former, and their claims; oldest first."""
    owners: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    created = {(job.namespace, job.name): job.created for job in jobs}
    for namespace, name in created:
        owners[namespace, name].add(name)
    for pod in pods:
        for name in (pod.name, *pod.claims):
            owners[pod.namespace, name].add(pod.job)
    found: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        names = owners.get((event.namespace, event.name)) or set(_makers(event.name))
        for name in names:
            key = (event.namespace, name)
            if key in created and event.last >= created[key]:
                found[key].append(event)
    told = {key: tuple(sorted(some, key=lambda event: event.last)) for key, some in found.items()}
    return defaultdict(tuple, told)


def _makers(name: str) -> Iterator[str]:
    """The runs that may have made what has this name: a pod of either operator, a Job, a claim of the chart."""
    if made := MADE.fullmatch(name):
        yield made["job"]
