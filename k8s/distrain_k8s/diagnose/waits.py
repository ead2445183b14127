"""What holds a run up: signs of causes, from what its pods wait for, and from pods that cannot be made.

Each returns None where its cause is not there. Words that every sentence may use (run, ns) are added by the table.
"""

import re
from collections.abc import Iterator

from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.diagnose.words import QUIET, Sign, Words, last_part, said, stuck, where
from distrain_k8s.kube.objects import Container, Event, Pod

PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
REFUSED_BY_REGISTRY = ("unauthorized", "denied", "forbidden", "authentication required", "no basic auth")
NO_SUCH_IMAGE = ("not found", "manifest unknown", "does not exist", "invalidimagename", "invalid reference")
NEVER_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"})
NO_VOLUME = ("ProvisioningFailed", "FailedBinding", "ExternalProvisioning")
CREATED_AS = {"Secret": "secret generic", "ConfigMap": "configmap"}


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
            return where(pod) | {"image": _pulled(detail) or pod.image, "message": last_part(detail)}
    return None


def secret_missing(seen: Evidence) -> Words | None:
    """A Secret, a ConfigMap, or a key of one, that a pod needs."""
    for pod, container in _waiting(seen):
        if container.reason == "CreateContainerConfigError" and (found := _named(container.message)):
            return where(pod) | found
    for pod in stuck(seen):
        for event in seen.about(pod, "FailedMount", "FailedToRetrieveImagePullSecret"):
            if found := _named(event.message):
                return where(pod) | found
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
    for pod in stuck(seen):
        for container in pod.containers:
            if container.init and container.exit_code:
                return where(pod) | {"container": container.name, "code": str(container.exit_code)}
    return None


def crash_loop(seen: Evidence) -> Words | None:
    """A container that kubelet restarts over and over, in jobs that are not distrain's own."""
    for pod, container in _waiting(seen):
        if container.reason == "CrashLoopBackOff":
            return said(pod, container) | {"count": str(container.restarts)}
    return None


def container_not_made(seen: Evidence) -> Words | None:
    """A container, or its sandbox, that the machine cannot make."""
    for pod, container in _waiting(seen):
        if container.reason in ("CreateContainerConfigError", *NEVER_STARTED):
            return where(pod) | {"message": container.message or container.reason}
    return _pod_event(seen, "FailedCreatePodSandBox")


def mount_failed(seen: Evidence) -> Words | None:
    """A volume that cannot be mounted or attached."""
    return _pod_event(seen, "FailedAttachVolume", "FailedMount")


def _pod_event(seen: Evidence, *reasons: str) -> Words | None:
    for pod in stuck(seen):
        for event in seen.about(pod, *reasons):
            return where(pod) | {"message": event.message}
    return None


# Where no machine takes a pod


def claim_missing(seen: Evidence) -> Words | None:
    """A claim that a pod names and nobody has made."""
    for pod, message in _unscheduled(seen):
        if found := re.search(r'persistentvolumeclaim "([\w.-]+)" (?:not found|is being deleted)', message):
            return where(pod) | {"claim": found[1]}
    return None


def claim_unbound(seen: Evidence) -> Words | None:
    """A claim without a volume."""
    for pod, message in _unscheduled(seen):
        if "unbound" not in message and "persistentvolumeclaim" not in message.lower():
            continue
        told = [e for e in reversed(seen.events) if e.kind == "PersistentVolumeClaim" and e.reason in NO_VOLUME]
        claim = told[0].name if told else " or ".join(pod.claims)
        return where(pod) | {"claim": claim, "message": f": {told[0].message}" if told else ""}
    return None


def unschedulable(kind: str) -> Sign:
    """A pod for which there is no machine, for want of GPU, CPU, memory, labels (`selector`), or a taint; `any`."""

    def sign(seen: Evidence) -> Words | None:
        for pod, message in _unscheduled(seen):
            lacking = lacks(message)
            if kind == "any":
                told = message.split(" preemption:")[0].replace(" no new claims to deallocate,", "")
                return where(pod) | {"message": told.rstrip(".")}
            if lacking and lacking[0][0] == kind:
                told = ", ".join(text for _, text in lacking)
                return where(pod) | {"message": told, "detail": lacking[0][1].split(" ", 2)[-1]}
        return None

    return sign


ORDER = ("gpu", "cpu", "memory", "selector", "taint")


def lacks(message: str) -> list[tuple[str, str]]:
    """What the scheduler's message says of the nodes, the reason that matters most first: (kind, text).

    The control plane's taint matters least: nobody means to train there.
    """
    found = []
    body = message.partition(":")[2].split(" preemption:")[0].replace("no new claims to deallocate,", "")
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
        elif "untolerated taint" in why:  # which Kubernetes 1.34 does not name
            found.append((4, "taint", f"{nodes} with taints that it does not tolerate"))
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
            return {"message": last_part(event.message, after="forbidden:")}
    return None


def webhook_down(seen: Evidence) -> Words | None:
    """A webhook that must be asked before a pod is made, and does not answer."""
    for event in _not_created(seen):
        if found := re.search(r'failed calling webhook "([^"]+)"', event.message):
            return {"webhook": found[1], "message": last_part(event.message)}
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


# Parts


def _waiting(seen: Evidence) -> Iterator[tuple[Pod, Container]]:
    return ((pod, c) for pod in stuck(seen) for c in pod.containers if c.state == "waiting" and c.reason)


def _unscheduled(seen: Evidence) -> Iterator[tuple[Pod, str]]:
    for pod in stuck(seen):
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
