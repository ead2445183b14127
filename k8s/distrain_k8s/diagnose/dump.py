"""A bundle that somebody else can diagnose a namespace's runs from: objects, events and logs, without secrets."""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distrain_k8s.diagnose.doctor import Line
from distrain_k8s.diagnose.redact import known_secrets, redacted, redacted_text
from distrain_k8s.errors import ClientError
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.resources import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    NODES,
    PODS,
    PYTORCHJOBS,
    QUOTAS,
    RUNTIMES,
    STORAGE_CLASSES,
    TRAINJOBS,
    WORKLOADS,
)

KINDS = (PYTORCHJOBS, TRAINJOBS, RUNTIMES, WORKLOADS, PODS, EVENTS, CONFIG_MAPS, CLAIMS, QUOTAS, NODES, STORAGE_CLASSES)
"""What is in it. Secrets are never read."""
LINES = 2000
"""Of each pod's log."""
MOST_LOGS = 64
"""Pods whose logs are in it."""


def dump(api: Api, lines: Sequence[Line], target: Path, say: Callable[[str], None]) -> int:
    """Writes the bundle, a .tar.gz; the number of files in it. lines: what the doctor has found."""
    known = known_secrets(own_tokens(api))
    with tarfile.open(target, "w:gz") as bundle:
        count = 0
        for name, text in contents(api, lines, known):
            data = text.encode()
            entry = tarfile.TarInfo(f"distrain-dump/{name}")
            entry.size, entry.mtime = len(data), int(time.time())
            bundle.addfile(entry, io.BytesIO(data))
            count += 1
    say(f"{target} holds {count} files, without what is or looks like a secret; read them before you share")
    return count


def own_tokens(api: Api) -> Iterator[str]:
    """The credentials that we ask the cluster with."""
    for value in (getattr(api.identity.configuration, "api_key", None) or {}).values():
        yield from str(value).split()


def contents(api: Api, lines: Sequence[Line], known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    yield "doctor.json", json.dumps(redacted([asdict(line) for line in lines], known), indent=2)
    pods: list[dict[str, Any]] = []
    for resource in KINDS:
        try:
            found = api.list(resource)
        except ClientError as error:
            yield f"{resource.plural}.txt", redacted_text(f"{error}\n", known)
            continue
        if resource is PODS:
            pods = found
        if resource is CONFIG_MAPS:
            found = [item for item in found if item["metadata"]["name"].endswith("-settings")]
        yield f"{resource.plural}.json", json.dumps(redacted(found, known), indent=1)
    for pod in pods[:MOST_LOGS]:
        name = pod["metadata"]["name"]
        try:
            with api.stream(PODS, name, "log", {"tailLines": LINES, "timestamps": True}, 20) as log:
                text = "\n".join(line.decode(errors="replace") for line in log)
        except ClientError as error:
            text = str(error)
        yield f"logs/{name}.log", redacted_text(text + "\n", known)
