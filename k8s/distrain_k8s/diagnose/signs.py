"""How each cause is recognized: functions of what is seen of a run, which answer with the words of its sentence.

Each returns None where its cause is not there. Words that every sentence may use (run, ns) are added by the table.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.kube.objects import Container, Event, Pod

Words = dict[str, str]
Sign = Callable[[Evidence], Words | None]

PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
REFUSED_BY_REGISTRY = ("unauthorized", "denied", "forbidden", "authentication required", "no basic auth")
NO_SUCH_IMAGE = ("not found", "manifest unknown", "does not exist", "invalidimagename", "invalid reference")
FOLLOWING = (137, 138, 143)
"""Exit codes of trainers that end because another one has, or because they were told to."""
NEVER_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"})
NO_VOLUME = ("ProvisioningFailed", "FailedBinding", "ExternalProvisioning")
CREATED_AS = {"Secret": "secret generic", "ConfigMap": "configmap"}
QUIET = timedelta(seconds=30)
"""After so long a pod whose machine does not confirm its end is lost, an operator that has not seen a job away."""
AGAIN_AND_AGAIN = 4
"""Pods made for one node, none of which has started, before it is worth a sentence."""


# Failed runs: the exit code of the first trainer that failed


def ended_with(*codes: int) -> Sign:
    """A trainer that has ended with one of these codes."""

    def sign(seen: Evidence) -> Words | None:
        for pod, trainer in _failures(seen):
            if trainer.exit_code in codes:
                return _said(pod, trainer)
        return None

    return sign


def ended(seen: Evidence) -> Words | None:
    """A trainer that has ended with any code, the commonest reason for a failed job."""
    return next((_said(pod, trainer) for pod, trainer in _failures(seen)), None)


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


def _said(pod: Pod, trainer: Container) -> Words:
    message = " ".join((trainer.message or "").split())
    return _where(pod) | {
        "code": str(trainer.exit_code),
        "message": message or f"{trainer.reason or 'ended'} with exit code {trainer.exit_code}",
    }


# What a container waits for


def image_missing(seen: Evidence) -> Words | None:
    """An image that the registry does not have."""
    return _image(seen, NO_SUCH_IMAGE)


def image_refused(seen: Evidence) -> Words | None:
    """An image that the registry does not hand out without credentials, or with these."""
    return _image(seen, REFUSED_BY_REGISTRY)


def image_not_pulled(seen: Evidence) -> Words | None:
    """An image that cannot be pulled for any other reason."""
    return _image(seen, ("",))


def _image(seen: Evidence, signs: tuple[str, ...]) -> Words | None:
    for pod, container in _waiting(seen):
        if container.reason not in PULLING:
            continue
        told = [event.message for event in seen.about(pod, "Failed") if "pull" in event.message.lower()]
        detail = next((text for text in (container.message, *told) if "rpc error" in text or "failed to" in text), "")
        detail = detail or container.message or container.reason
        if any(sign in f"{container.reason} {detail}".lower() for sign in signs):
            return _where(pod) | {"image": _pulled(detail) or pod.image, "message": _last_part(detail)}
    return None


def secret_missing(seen: Evidence) -> Words | None:
    """A Secret, a ConfigMap, or a key of one, that a pod needs."""
    for pod, container in _waiting(seen):
        if container.reason == "CreateContainerConfigError" and (found := _named(container.message)):
            return _where(pod) | found
    for pod in _stuck(seen):
        for event in seen.about(pod, "FailedMount", "FailedToRetrieveImagePullSecret"):
            if found := _named(event.message):
                return _where(pod) | found
    return None


def _named(message: str) -> Words | None:
    if key := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:[\w.-]+/)?([\w.-]+)", message):
        kind, name = key[2], key[3]
        return {"what": f"the key {key[1]} of the {kind} {name}", "name": name, "object": CREATED_AS[kind]}
    if found := re.search(r'(secret|configmap)s? "([\w.-]+)" not found', message, re.IGNORECASE):
        kind = "Secret" if found[1].lower() == "secret" else "ConfigMap"
        return {"what": f"the {kind} {found[2]}", "name": found[2], "object": CREATED_AS[kind]}
    if found := re.search(r"image pull secrets? \(([\w.-]+)\)", message):
        return {"what": f"the Secret {found[1]}", "name": found[1], "object": CREATED_AS["Secret"]}
    return None


def init_failed(seen: Evidence) -> Words | None:
    """An init container that ends with an error."""
    for pod in _stuck(seen):
        for container in pod.containers:
            if container.init and container.exit_code:
                return _where(pod) | {"container": container.name, "code": str(container.exit_code)}
    return None


def crash_loop(seen: Evidence) -> Words | None:
    """A container that kubelet restarts over and over, in jobs that are not distrain's own."""
    for pod, container in _waiting(seen):
        if container.reason == "CrashLoopBackOff":
            return _said(pod, container) | {"count": str(container.restarts)}
    return None


def container_not_made(seen: Evidence) -> Words | None:
    """A container, or its sandbox, that the machine cannot make."""
    for pod, container in _waiting(seen):
        if container.reason in ("CreateContainerConfigError", *NEVER_STARTED):
            return _where(pod) | {"message": container.message or container.reason}
    return _pod_event(seen, "FailedCreatePodSandBox")


def mount_failed(seen: Evidence) -> Words | None:
    """A volume that cannot be mounted or attached."""
    return _pod_event(seen, "FailedAttachVolume", "FailedMount")


def _pod_event(seen: Evidence, *reasons: str) -> Words | None:
    for pod in _stuck(seen):
        for event in seen.about(pod, *reasons):
            return _where(pod) | {"message": event.message}
    return None


# Where no machine takes a pod


def claim_missing(seen: Evidence) -> Words | None:
    """A claim that a pod names and nobody has made."""
    for pod, message in _unscheduled(seen):
        if found := re.search(r'persistentvolumeclaim "([\w.-]+)" (?:not found|is being deleted)', message):
            return _where(pod) | {"claim": found[1]}
    return None


def claim_unbound(seen: Evidence) -> Words | None:
    """A claim without a volume."""
    for pod, message in _unscheduled(seen):
        if "unbound" not in message and "persistentvolumeclaim" not in message.lower():
            continue
        told = [e for e in reversed(seen.events) if e.kind == "PersistentVolumeClaim" and e.reason in NO_VOLUME]
        claim = told[0].name if told else " or ".join(pod.claims)
        return _where(pod) | {"claim": claim, "message": f": {told[0].message}" if told else ""}
    return None


def unschedulable(kind: str) -> Sign:
    """A pod for which there is no machine, for want of GPU, CPU, memory, labels (`selector`), or a taint; `any`."""

    def sign(seen: Evidence) -> Words | None:
        for pod, message in _unscheduled(seen):
            lacking = lacks(message)
            if kind == "any":
                return _where(pod) | {"message": message.split(" preemption:")[0].rstrip(".")}
            if lacking and lacking[0][0] == kind:
                told = ", ".join(text for _, text in lacking)
                return _where(pod) | {"message": told, "detail": lacking[0][1].split(" ", 2)[-1]}
        return None

    return sign


ORDER = ("gpu", "cpu", "memory", "selector", "taint")


def lacks(message: str) -> list[tuple[str, str]]:
    """What the scheduler's message says of the nodes, the reason that matters most first: (kind, text).

    The control plane's taint matters least: nobody means to train there.
    """
    found = []
    body = message.partition(":")[2].split(" preemption:")[0]
    for part in re.split(r", (?=\d)|\. (?=\d)", body.strip().rstrip(".")):
        if not (split := re.match(r"(\d+) (.*)", part.strip())):
            continue
        count, why = int(split[1]), split[2]
        nodes = "1 node" if count == 1 else f"{count} nodes"
        if insufficient := re.match(r"Insufficient (\S+)", why):
            resource = insufficient[1].rstrip(".")
            kind = resource if resource in ("cpu", "memory") else "gpu"
            found.append((ORDER.index(kind), kind, f"{nodes} without enough {resource}"))
        elif taint := re.search(r"untolerated taint\(?s?\)? *\{(.*?)\}", why):
            name = taint[1].replace(": }", "").strip().rstrip(":").strip()
            rank = 9 if "control-plane" in name or "master" in name else 4
            found.append((rank, "taint", f"{nodes} with the taint {name}"))
        elif "affinity" in why or "selector" in why:
            found.append((3, "selector", f"{nodes} without the labels of nodeSelector or affinity"))
        else:
            found.append((5, "other", f"{nodes}: {why}"))
    return [(kind, text) for _, kind, text in sorted(found)]


# Where there is no pod


def quota_used_up(seen: Evidence) -> Words | None:
    """A ResourceQuota that has no room for the pods."""
    for event in _not_created(seen):
        if found := re.search(r"exceeded quota: ([\w.-]+), (.*)", event.message):
            return {"quota": found[1], "message": found[2]}
    return None


def pod_refused(seen: Evidence) -> Words | None:
    """A pod that a policy refuses."""
    for event in _not_created(seen):
        if "violates PodSecurity" in event.message or "is forbidden" in event.message:
            return {"message": _last_part(event.message, after="forbidden:")}
    return None


def webhook_down(seen: Evidence) -> Words | None:
    """A webhook that must be asked before a pod is made, and does not answer."""
    for event in _not_created(seen):
        if found := re.search(r'failed calling webhook "([^"]+)"', event.message):
            return {"webhook": found[1], "message": _last_part(event.message)}
    return None


def not_created(seen: Evidence) -> Words | None:
    """Pods that cannot be made for any other reason."""
    return next(({"message": event.message} for event in _not_created(seen)), None)


def operator_away(seen: Evidence) -> Words | None:
    """A job that its operator has not looked at, although it should have."""
    if seen.job.conditions or seen.pods or seen.job.started or seen.age < QUIET.total_seconds():
        return None
    trainer = seen.job.kind == "TrainJob"
    return {
        "operator": "Kubeflow Trainer" if trainer else "Kubeflow's training operator",
        "deployment": "kubeflow-system kubeflow-trainer-controller-manager"
        if trainer
        else "kubeflow training-operator",
        "age": str(int(seen.age)),
    }


def queued(seen: Evidence) -> Words | None:
    """A job that Kueue holds back."""
    if not seen.job.queue:
        return None
    if seen.workload is None:
        if seen.age < QUIET.total_seconds():
            return None
        return {"queue": seen.job.queue, "message": "Kueue has not noticed it", "workload": ""}
    message = ""
    for kind in ("Evicted", "QuotaReserved", "Admitted"):
        condition = seen.workload.condition(kind)
        if condition and condition.message and condition.status is (kind == "Evicted"):
            message = condition.message
    return {"queue": seen.job.queue, "message": message or "it waits for quota", "workload": seen.workload.name}


# What happened to pods that ran


def out_of_memory(seen: Evidence) -> Words | None:
    """A trainer that the kernel killed for its memory, or a process of it."""
    own = any(trainer.exit_code not in FOLLOWING for _, trainer in seen.ended())
    for pod, trainer in reversed(seen.ended()):
        if trainer.reason == "OOMKilled" or (trainer.exit_code == 137 and not own):
            return _where(pod) | {"message": trainer.message or "OOMKilled"}
    for name, code in _exits(seen):
        if code == 137:
            return {"who": _who(seen, name), "pod": name, "message": "killed with SIGKILL"}
    return None


def evicted(seen: Evidence) -> Words | None:
    """A pod that its machine has sent away, or that has had to make room."""
    for pod in sorted(seen.pods, key=lambda pod: pod.created, reverse=True):
        disruption = pod.condition("DisruptionTarget")
        if pod.reason == "Evicted":
            return _where(pod) | {"message": " ".join(pod.message.split()) or "Evicted"}
        if disruption and disruption.status and disruption.reason != "DeletionByTaintManager":
            return _where(pod) | {"message": disruption.message or disruption.reason}
    for event in reversed(seen.events):
        if event.kind == "Pod" and event.reason in ("Evicted", "Preempted"):
            return {"who": _who(seen, event.name), "pod": event.name, "node": "its machine", "message": event.message}
    return None


def machine_gone(seen: Evidence) -> Words | None:
    """A pod that should be gone, and whose machine does not confirm it."""
    for pod in seen.pods:
        if pod.node and pod.deleted and pod.phase not in ("Succeeded", "Failed") and seen.now - pod.deleted > QUIET:
            return _where(pod)
        if pod.node and pod.phase == "Unknown":
            return _where(pod)
    return None


def same_machine(seen: Evidence) -> Words | None:
    """A machine on which the run has failed twice or more, and more often than on all others."""
    failed = Counter(
        pod.node for pod in seen.pods if pod.node and pod.main and pod.main.exit_code not in (None, 0, 143)
    )
    failed += _failed_machines(seen)
    if not failed:
        return None
    machine, count = failed.most_common(1)[0]
    if count < 2 or count <= sum(failed.values()) / 2:
        return None
    return {"node": machine, "count": str(count)}


def _failed_machines(seen: Evidence) -> Counter[str]:
    """Machines of pods that are gone, and have failed, as the events of the scheduler and the operator tell."""
    placed: dict[str, list[tuple[Event, str]]] = {}
    present = {pod.uid for pod in seen.pods}
    for event in seen.events:
        if event.reason == "Scheduled" and event.uid not in present:
            found = re.search(r"assigned \S+ to (\S+)", event.message)
            if found:
                placed.setdefault(event.name, []).append((event, found[1]))
    exits = Counter(name for name, code in _exits(seen) if code != 143)
    return Counter(machine for name, entries in placed.items() for _, machine in entries[-exits[name] :] if exits[name])


def recreated(seen: Evidence) -> Words | None:
    """A pod that is made again and again, and never starts."""
    made = Counter[str]()
    for event in seen.about_job("SuccessfulCreatePod", "SuccessfulCreate"):
        if found := re.search(r"Created pod: ([\w.-]+)", event.message):
            made[found[1]] += event.count
    for pod in seen.current.values():
        count = made[pod.name] + sum(1 for other in seen.earlier if other.rank == pod.rank)
        if count < AGAIN_AND_AGAIN or pod.is_running or (pod.main and pod.main.started and pod.main.exit_code != 128):
            continue
        why = next((c.message or c.reason for c in pod.containers if c.state != "running" and c.reason), "")
        why = why or next((e.message for e in reversed(seen.events) if e.kind == "Pod" and e.type == "Warning"), "")
        return _where(pod) | {"count": str(count), "message": f": {why}" if why else ""}
    return None


def lost_peer(seen: Evidence) -> Words | None:
    """A trainer that has lost another, the network or a device, and is started again."""
    for pod, trainer in reversed(seen.ended()):
        if trainer.exit_code == 138:
            return _said(pod, trainer)
    for name, code in _exits(seen):
        if code == 138:
            return {"who": _who(seen, name), "pod": name, "code": "138", "message": "it lost a peer, or a device"}
    return None


def asked_to_leave(seen: Evidence) -> Words | None:
    """A pod that was asked to stop and has left a checkpoint, as when its machine is drained."""
    for name, code in _exits(seen):
        if code == 143:
            return {"who": _who(seen, name), "pod": name}
    leaving = next((pod for pod in seen.pods if pod.deleted), None)
    return _where(leaving) if leaving else None


def exits(seen: Evidence) -> int:
    """How often pods of the run have failed, as far as the cluster remembers; those that were asked to leave do not
    count."""
    told = sum(e.count for e in seen.about_job("ExitedWithCode") if not e.message.endswith("143"))
    kept = sum(1 for _, trainer in seen.ended() if trainer.exit_code != 143)
    return max(told, kept, seen.job.failed_pods)


def _exits(seen: Evidence) -> list[tuple[str, int]]:
    """Pods that are gone and their exit codes, as the training operator tells them; the newest first."""
    found = []
    for event in seen.about_job("ExitedWithCode"):
        if told := re.search(r"Pod: (?:[\w-]+\.)?([\w.-]+) exited with code (\d+)", event.message):
            found += [(told[1], int(told[2]))] * event.count
    return found


# Parts


def _where(pod: Pod) -> Words:
    who = pod.name if pod.rank is None else f"node {pod.rank}"
    return {"who": who, "pod": pod.name, "node": pod.node or "no machine"}


def _who(seen: Evidence, pod: str) -> str:
    """What a person calls a pod that is gone."""
    if pod == f"{seen.job.name}-master-0":
        return "node 0"
    if found := re.fullmatch(rf"{re.escape(seen.job.name)}-worker-(\d+)", pod):
        return f"node {int(found[1]) + 1}"
    return pod


def _stuck(seen: Evidence) -> Iterator[Pod]:
    """Pods that should run and do not."""
    return (p for p in seen.current.values() if not p.is_running and p.phase not in ("Succeeded", "Failed"))


def _waiting(seen: Evidence) -> Iterator[tuple[Pod, Container]]:
    return ((pod, c) for pod in _stuck(seen) for c in pod.containers if c.state == "waiting" and c.reason)


def _unscheduled(seen: Evidence) -> Iterator[tuple[Pod, str]]:
    for pod in _stuck(seen):
        scheduled = pod.condition("PodScheduled")
        if pod.node is None and scheduled and not scheduled.status and scheduled.message:
            yield pod, scheduled.message


def _not_created(seen: Evidence) -> Iterator[Event]:
    if len(seen.current) >= seen.job.nodes:
        return iter(())
    return seen.about_job("FailedCreatePod", "FailedCreate")


def _pulled(message: str) -> str:
    found = re.search(r'(?:pulling image|pull image|unpack image|resolve reference) "([^"]+)"', message)
    return found[1] if found else ""


def _last_part(message: str, after: str = "") -> str:
    """The end of a chain of errors, which says what is wrong."""
    text = " ".join(message.split())
    if after and after in text:
        return text.rpartition(after)[2].strip()
    parts = [part.strip() for part in text.split(": ") if part.strip()]
    return ": ".join(parts[-2:]) if parts and len(parts[-1]) < 30 else parts[-1] if parts else text
