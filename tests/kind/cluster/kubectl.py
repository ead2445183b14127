"""kubectl on the test cluster, with time-outs, and waiting that ends when nothing moves."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cluster import shell
from cluster.shell import BIN, CACHE, Failure

KUBECONFIG = CACHE / "kubeconfig"
JOBS = ("pytorchjobs.kubeflow.org", "trainjobs.trainer.kubeflow.org", "jobsets.jobset.x-k8s.io")
Object = dict[str, Any]
Answer = TypeVar("Answer")


def run(*arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str:
    program, kubeconfig = BIN / "kubectl", f"--kubeconfig={KUBECONFIG}"
    return shell.run(program, kubeconfig, *arguments, stdin=stdin, timeout=timeout, check=check).stdout


def apply(*objects: Object, namespace: str = "default") -> None:
    bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    run("apply", "--server-side", "--force-conflicts", "-n", namespace, "-f", "-", stdin=json.dumps(bundle))


def get(*arguments: str) -> Object:
    """One object, or a list of them under `items`; empty where there is none."""
    text = run("get", *arguments, "--ignore-not-found", "-o", "json")
    return json.loads(text) if text.strip() else {}


def wait(
    what: str,
    look: Callable[[], tuple[Answer | None, object]],
    deadline: float = 300,
    stall: float = 60,
) -> Answer:
    """The first answer of `look` that is not None.

    `look` also says how far things are: when that stays the same for `stall` seconds, or at the deadline, it fails.
    """
    started = moved = time.monotonic()
    known: object = None
    while True:
        answer, progress = look()
        if answer is not None:
            return answer
        now = time.monotonic()
        if progress != known:
            known, moved = progress, now
        if now - started > deadline:
            raise Failure(f"{what}: not after {deadline:.0f} s; last seen: {known}")
        if now - moved > stall:
            raise Failure(f"{what}: nothing moved for {stall:.0f} s; last seen: {known}")
        time.sleep(0.3)


def is_available(namespace: str, deployment: str) -> bool:
    return bool(get("deployment", deployment, "-n", namespace).get("status", {}).get("availableReplicas"))


def rolled_out(namespace: str, deployment: str) -> None:
    def look() -> tuple[bool | None, object]:
        found = get("deployment", deployment, "-n", namespace)
        status = found.get("status", {})
        wanted = found.get("spec", {}).get("replicas", 1)
        current = status.get("observedGeneration") == found.get("metadata", {}).get("generation")
        counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        pods = get("pods", "-n", namespace).get("items", [])
        return (current and counts == [wanted] * 3) or None, (counts, [pod_state(pod) for pod in pods])

    wait(f"deployment {namespace}/{deployment} available", look, deadline=300, stall=150)


def pod_state(pod: Object) -> str:
    """A pod's name, phase and what its containers wait for or ended with, in one line."""
    status = pod.get("status", {})
    parts = [f"{pod['metadata']['name']} {status.get('phase', '?')}"]
    for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
        for kind, detail in container.get("state", {}).items():
            reason = detail.get("reason", kind)
            code = f" {detail['exitCode']}" if "exitCode" in detail else ""
            parts.append(f"{container['name']} {reason}{code} x{container.get('restartCount', 0)}")
    return ", ".join(parts)
