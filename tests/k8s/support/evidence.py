"""Runs as the client reads them from objects of `made`."""

from typing import Any

import made
from distrain_k8s.diagnose.evidence import Evidence, events_of_runs
from distrain_k8s.kube.objects import read_event, read_pod, read_pytorchjob, read_trainjob, read_workload
from distrain_k8s.runs.status import Run, status_of

Object = dict[str, Any]


def seen(job: Object, *pods: Object, events: tuple[Object, ...] = (), queue: Object | None = None) -> Evidence:
    read = read_pytorchjob(job) if job["kind"] == "PyTorchJob" else read_trainjob(job)
    found = tuple(map(read_pod, pods))
    own = events_of_runs(map(read_event, events), [read], found)[read.namespace, read.name]
    return Evidence(read, found, made.NOW, own, read_workload(queue) if queue else None)


def run(job: Object, *pods: Object, **more: Any) -> Run:
    return status_of(seen(job, *pods, **more))
