"""How pods that ran have ended: signs of causes, from exit codes, last words and what the operator tells.

Each returns None where its cause is not there. Words that every sentence may use (run, ns) are added by the table.
"""

import re
from collections import Counter
from collections.abc import Iterator

from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.diagnose.words import QUIET, Sign, Words, said, where, who
from distrain_k8s.kube.objects import Condition, Container, Event, Pod

FOLLOWING = (137, 138, 143)
"""Exit codes of trainers that end because another one has, or because they were told to."""
NOT_STARTED = 128
"""The exit code of a container that could not be started."""
ON_ITS_WAY = ("ContainerCreating", "PodInitializing")
AGAIN_AND_AGAIN = 4
"""Pods made for one node, none of which has started, before it is worth a sentence."""


# Failed runs: the exit code of the first trainer that failed


def ended_with(*codes: int) -> Sign:
    """A trainer that has ended with one of these codes."""

    def sign(seen: Evidence) -> Words | None:
        for pod, trainer in _failures(seen):
            if trainer.exit_code in codes:
                return said(pod, trainer)
        return None

    return sign


def ended(seen: Evidence) -> Words | None:
    """A trainer that has ended with any code, the commonest reason for a failed job."""
    return next((said(pod, trainer) for pod, trainer in _failures(seen)), None)


def job_failed(seen: Evidence) -> Words | None:
    """A job that has failed and left no pod to ask."""
    condition = seen.job.condition("Failed")
    if condition is None:
        return None
    if code := re.search(r"exit(?:ed with)? code:? (\d+)", condition.message):
        return {"message": condition.message, "code": code[1]}
    return {"message": condition.message or condition.reason or "no reason is given"}


def _failures(seen: Evidence) -> Iterator[tuple[Pod, Container]]:
    """Trainers that ended with an error of their own first, then those that followed, or were told to leave."""
    found = seen.ended()
    yield from (entry for entry in found if entry[1].exit_code not in FOLLOWING)
    yield from (entry for entry in found if entry[1].exit_code in (137, 138))
    yield from (entry for entry in found if entry[1].exit_code == 143)


# What happened to pods that ran


def out_of_memory(seen: Evidence) -> Words | None:
    """A trainer that the kernel killed for its memory, or a process of it."""
    own = any(trainer.exit_code not in FOLLOWING for _, trainer in seen.ended())
    for pod, trainer in reversed(seen.ended()):
        if trainer.reason == "OOMKilled" or (trainer.exit_code == 137 and not own):
            return where(pod) | {"message": trainer.message or "OOMKilled"}
    for name, code in told_exits(seen):
        if code == 137:
            return {"who": who(seen, name), "pod": name, "message": "killed with SIGKILL"}
    return None


def evicted(seen: Evidence) -> Words | None:
    """A pod that its machine has sent away, since it ran short of something."""
    for pod in sorted(seen.pods, key=lambda pod: pod.created, reverse=True):
        if pod.reason == "Evicted":
            return where(pod) | _why_evicted(pod.message or "Evicted")
        if (why := _disruption(pod)) and why.reason == "TerminationByKubelet":
            return where(pod) | _why_evicted(why.message or why.reason)
    for event in reversed(seen.events):
        if event.kind == "Pod" and event.reason == "Evicted":
            found = {"who": who(seen, event.name), "pod": event.name, "node": "its machine"}
            return found | _why_evicted(event.message)
    return None


def preempted(seen: Evidence) -> Words | None:
    """A pod that has had to make room for one of higher priority."""
    for pod in seen.pods:
        if (why := _disruption(pod)) and why.reason == "PreemptionByScheduler":
            return where(pod)
    for event in reversed(seen.events):
        if event.kind == "Pod" and event.reason == "Preempted":
            return {"who": who(seen, event.name), "pod": event.name, "node": "its machine"}
    return None


def drained(seen: Evidence) -> Words | None:
    """A pod that leaves since its machine is drained, or is no longer part of the cluster."""
    why = {"EvictionByEvictionAPI": "as when a node is drained", "DeletionByPodGC": "since that node is gone"}
    for pod in seen.pods:
        if (disruption := _disruption(pod)) and disruption.reason in why:
            return where(pod) | {"why": why[disruption.reason]}
    return None


def _disruption(pod: Pod) -> Condition | None:
    """Why Kubernetes takes a pod away; None where it does not."""
    found = pod.condition("DisruptionTarget")
    return found if found and found.status else None


def _why_evicted(message: str) -> Words:
    """What was said, and what the run should ask for."""
    disk = "ephemeral" in message
    option = "limits.ephemeral-storage" if disk else "requests.memory"
    return {"message": " ".join(message.split()).rstrip("."), "option": option}


def machine_gone(seen: Evidence) -> Words | None:
    """A pod that should be gone, and whose machine does not confirm it."""
    for pod in seen.pods:
        if pod.node and pod.deleted and pod.phase not in ("Succeeded", "Failed") and seen.now - pod.deleted > QUIET:
            return where(pod)
        if pod.node and pod.phase == "Unknown":
            return where(pod)
    return None


def same_machine(seen: Evidence) -> Words | None:
    """A machine on which the run has failed twice or more, and more often than on all others."""
    failed = Counter(pod.node for pod in seen.pods if pod.node and pod.main and _blames(seen, pod.main.exit_code))
    failed += _failed_machines(seen)
    if not failed:
        return None
    machine, count = failed.most_common(1)[0]
    if count < 2 or count <= sum(failed.values()) / 2:
        return None
    return {"node": machine, "count": str(count)}


def _blames(seen: Evidence, code: int | None) -> bool:
    """Whether an exit code speaks against the machine. Memory that ran out does not, and that a container cannot be
    started at all (128) only where another node of the run could be started."""
    if code == NOT_STARTED:
        return any(pod.is_running for pod in seen.current.values())
    return code not in (None, 0, 137, 143)


def _failed_machines(seen: Evidence) -> Counter[str]:
    """Machines of pods that are gone, and have failed, as the events of the scheduler and the operator tell."""
    placed: dict[str, list[tuple[Event, str]]] = {}
    present = {pod.uid for pod in seen.pods}
    for event in seen.events:
        if event.reason == "Scheduled" and event.uid not in present:
            found = re.search(r"assigned \S+ to (\S+)", event.message)
            if found:
                placed.setdefault(event.name, []).append((event, found[1]))
    exits = Counter(name for name, code in told_exits(seen) if _blames(seen, code))
    return Counter(machine for name, entries in placed.items() for _, machine in entries[-exits[name] :] if exits[name])


def recreated(seen: Evidence) -> Words | None:
    """A pod that is made again and again, and never starts."""
    made = Counter[str]()
    for event in seen.about_job("SuccessfulCreatePod", "SuccessfulCreate"):
        if found := re.search(r"Created pod: ([\w.-]+)", event.message):
            made[found[1]] += event.count
    for pod in seen.current.values():
        count = made[pod.name] + sum(1 for other in seen.earlier if other.rank == pod.rank)
        if (
            count < AGAIN_AND_AGAIN
            or pod.is_running
            or (pod.main and pod.main.started and pod.main.exit_code != NOT_STARTED)
        ):
            continue
        waits = [c for c in pod.containers if c.state != "running" and c.reason not in ("", *ON_ITS_WAY)]
        why = next((container.message or container.reason for container in waits), "")
        why = why or next((e.message for e in reversed(seen.events) if e.kind == "Pod" and e.type == "Warning"), "")
        return where(pod) | {"count": str(count), "message": f": {why}" if why else ""}
    return None


def lost_peer(seen: Evidence) -> Words | None:
    """A trainer that has lost another, the network or a device, and is started again."""
    for pod, trainer in reversed(seen.ended()):
        if trainer.exit_code == 138:
            return said(pod, trainer)
    for name, code in told_exits(seen):
        if code == 138:
            return {"who": who(seen, name), "pod": name, "code": "138", "message": "it lost a peer, or a device"}
    return None


def asked_to_leave(seen: Evidence) -> Words | None:
    """A pod that was asked to stop and has left a checkpoint, as when its machine is drained."""
    for name, code in told_exits(seen):
        if code == 143:
            return {"who": who(seen, name), "pod": name}
    leaving = next((pod for pod in seen.pods if pod.deleted), None)
    return where(leaving) if leaving else None


def exits(seen: Evidence) -> int:
    """How often pods of the run have failed, as far as the cluster remembers; those that were asked to leave do not
    count."""
    told = sum(1 for _, code in told_exits(seen) if code != 143)
    kept = sum(1 for _, trainer in seen.ended() if trainer.exit_code != 143)
    return max(told, kept, seen.job.failed_pods)


def told_exits(seen: Evidence) -> list[tuple[str, int]]:
    """Pods that have failed or left and their exit codes, as the training operator tells them; the newest first."""
    found = []
    for event in seen.about_job("ExitedWithCode"):
        told = re.search(r"Pod: (?:[\w-]+\.)?([\w.-]+) exited with code (\d+)", event.message)
        if told and int(told[2]):  # a pod that is done is told of too
            found += [(told[1], int(told[2]))] * event.count
    return found
