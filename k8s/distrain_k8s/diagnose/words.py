"""The words of a cause's sentence: who, where, and what was said."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.kube.objects import Container, Pod

QUIET = timedelta(seconds=30)
"""After so long a pod whose machine does not confirm its end is lost, an operator that has not seen a job away."""
Words = dict[str, str]
Sign = Callable[[Evidence], Words | None]
"""How a cause is recognized; None where it is not there."""


def where(pod: Pod) -> Words:
    """Who a pod is to a person, its name, and its machine."""
    who = pod.name if pod.rank is None else f"node {pod.rank}"
    return {"who": who, "pod": pod.name, "node": pod.node or "no machine"}


def who(seen: Evidence, pod: str) -> str:
    """What a person calls a pod that is gone."""
    if pod == f"{seen.job.name}-master-0":
        return "node 0"
    if found := re.fullmatch(rf"{re.escape(seen.job.name)}-worker-(\d+)", pod):
        return f"node {int(found[1]) + 1}"
    return pod


def said(pod: Pod, trainer: Container) -> Words:
    """The exit code of a trainer that has ended, and its own last words."""
    message = " ".join((trainer.message or "").split())
    return where(pod) | {
        "code": str(trainer.exit_code),
        "message": message or f"{trainer.reason or 'ended'} with exit code {trainer.exit_code}",
    }


def stuck(seen: Evidence) -> Iterator[Pod]:
    """Pods that should run and do not."""
    return (p for p in seen.current.values() if not p.is_running and p.phase not in ("Succeeded", "Failed"))


def last_part(message: str, after: str = "") -> str:
    """The end of a chain of errors, which says what is wrong."""
    text = " ".join(message.split())
    if after and after in text:
        return text.rpartition(after)[2].strip()
    parts = [part.strip() for part in text.split(": ") if part.strip()]
    return ": ".join(parts[-2:]) if parts and len(parts[-1]) < 30 else parts[-1] if parts else text
