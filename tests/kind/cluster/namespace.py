"""A namespace for one test, which leaves nothing behind."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from cluster import kubectl, shell, storage
from cluster.kubectl import JOBS, Object
from cluster.shell import BIN

Answer = TypeVar("Answer")
OWNERS = (*JOBS, "jobs", "deployments")
POD_SECURITY = "pod-security.kubernetes.io"
ENDS = ("Succeeded", "Failed", "Complete")
"""Conditions that end a job, of all kinds of job."""


class Namespace(NamedTuple):
    name: str

    def create(self) -> None:
        kubectl.run("create", "namespace", self.name)

    def enforce(self, level: str) -> None:
        """Pod Security of this level, from now on."""
        labels = [f"{POD_SECURITY}/{mode}={level}" for mode in ("enforce", "warn", "audit")]
        kubectl.run("label", "namespace", self.name, "--overwrite", *labels)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True) -> str:
        return kubectl.run("-n", self.name, *arguments, stdin=stdin, timeout=timeout, check=check)

    def helm(self, *arguments: str | Path, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = (BIN / "helm", "--kubeconfig", kubectl.KUBECONFIG, "-n", self.name, *arguments)
        return shell.run(*command, timeout=timeout, check=check)

    def apply(self, *objects: Object) -> None:
        kubectl.apply(*objects, namespace=self.name)

    def get(self, *arguments: str) -> Object:
        return kubectl.get("-n", self.name, *arguments)

    def pods(self, selector: str = "") -> list[Object]:
        items: list[Object] = self.get("pods", *(["-l", selector] if selector else [])).get("items", [])
        return items

    def logs(self, pod: str, *arguments: str) -> str:
        return self.kubectl("logs", pod, *arguments)

    def execute(self, pod: str, *command: str, timeout: float = 60) -> str:
        return self.kubectl("exec", pod, "--", *command, timeout=timeout)

    def volume(self, claim: str) -> Path:
        """A ReadWriteMany volume for a claim of this name; the answer is its folder on this machine."""
        return storage.volume(self.name, claim)

    def wait(self, what: str, look: Callable[[], Answer | None], deadline: float = 300, stall: float = 60) -> Answer:
        """The first answer of `look` that is not None; it fails at the deadline, or when the pods stand still."""

        def looked() -> tuple[Answer | None, object]:
            answer = look()
            return answer, None if answer is not None else [kubectl.pod_state(pod) for pod in self.pods()]

        return kubectl.wait(what, looked, deadline, stall)

    def finished(
        self,
        kind: str,
        name: str,
        deadline: float = 300,
        stall: float = 90,
        progress: Callable[[], object] = lambda: None,
    ) -> str:
        """How a job ended: the type of its last condition. `progress` is what moves while its pods only run."""

        def look() -> tuple[str | None, object]:
            conditions = self.get(kind, name).get("status", {}).get("conditions", [])
            ended = [c["type"] for c in conditions if c["status"] == "True" and c["type"] in ENDS]
            pods = [kubectl.pod_state(pod) for pod in self.pods()]
            return ended[0] if ended else None, (pods, [c["type"] for c in conditions], progress())

        return kubectl.wait(f"{kind} {self.name}/{name} ended", look, deadline, stall)

    def remove(self) -> None:
        """Jobs first, without their pods, so that pods need not be waited for as long as they ask for."""
        for owner in OWNERS:
            self.kubectl("delete", owner, "--all", "--cascade=orphan", check=False)
        self.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")

        def look() -> tuple[bool | None, object]:
            left = [kubectl.pod_state(pod) for pod in self.pods()]
            return not left or None, left

        kubectl.wait(f"pods of {self.name} gone", look, deadline=120, stall=60)
        kubectl.run("delete", "namespace", self.name, "--wait=false")
        storage.remove(self.name)
