"""One run on the cluster under one fault after another, each only behind a new checkpoint since the last."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cases
from cluster import kubectl
from cluster.kubectl import Object
from cluster.namespace import Namespace
from faults import Victim
from release import Release, digest
from timeline import Timeline

STEPS = 20 * cases.EVERY
LAST = STEPS - 3 * cases.EVERY
"""Step of the last fault at most, so that it does not meet the end."""
SETTINGS: dict[str, Any] = cases.SETTINGS | {"schedule": {"max_steps": STEPS}}

Fault = Callable[[Victim], None]


class NowVictim(Victim):
    """One whose faults come at once, whatever step they name."""

    def until(self, step: int) -> None:
        """Waits for nothing."""


class Ended(NamedTuple):
    """How a run ended: the hash of its final weights, the names of the faults that came, and what its folder showed."""

    digest: str
    faults: list[str]
    timeline: Timeline

    @property
    def attempts(self) -> int:
        return self.timeline.looks[-1].attempt


def one_run(name: str, image: str, inputs: Path, faults: Iterator[Fault]) -> Ended:
    """Runs to the end under faults, of which each is asked for when it is time for it; none comes after step LAST."""
    namespace = Namespace(f"{name}-{uuid.uuid4().hex[:5]}")  # one that is being removed keeps its name for a while
    namespace.create()
    try:
        run = Release(namespace, image, inputs, {"nodes": 2, "trainer": SETTINGS})
        run.install()
        victim = NowVictim(run, Timeline(run.folder))
        happened: list[str] = []
        with victim.timeline.recorded():
            for fault in in_time(victim, faults):
                happened.append(fault.__name__)
                fault(victim)
            run.succeeded()
        return Ended(digest(run.folder), happened, victim.timeline)
    finally:
        namespace.remove()


def in_time(victim: Victim, faults: Iterator[Fault]) -> Iterator[Fault]:
    """Each fault when the run has a new checkpoint, the first behind two, and both pods run."""
    wanted = 2
    while new_checkpoints(victim, wanted):
        both_run(victim)
        fault = next(faults, None)
        if fault is None:
            return
        yield fault
        wanted = 1


def new_checkpoints(victim: Victim, count: int) -> bool:
    """Waits for new checkpoints; whether it is still early enough for a fault."""

    def newest() -> int:
        steps = [int(path.name.rpartition("-")[2]) for path in victim.published()]
        return max(steps, default=0)

    first = newest()

    def look() -> tuple[bool | None, object]:
        step = newest()
        return (step >= first + count * cases.EVERY or step >= LAST or None), victim.timeline.looks[-1:]

    kubectl.wait("a new checkpoint", look, deadline=600, stall=240)
    return newest() < LAST


def both_run(victim: Victim) -> None:
    """Waits until a fault finds both pods: the new checkpoint may be that of a pod that has been asked to leave."""

    def look() -> tuple[bool | None, object]:
        states = [kubectl.pod_state(pod) for pod in victim.run.pods()]
        running = [pod for pod in victim.run.pods() if pod["status"].get("podIP") and is_running(pod)]
        return (len(running) == 2 or victim.timeline.step >= LAST or None), states

    kubectl.wait("both pods run", look, deadline=300, stall=180)


def is_running(pod: Object) -> bool:
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
