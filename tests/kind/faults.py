"""What dies, hangs or is cut off: each fault of the chaos suite as it happens to a run on the cluster."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import engine, kubectl, operator, shell, storage
from cluster.kubectl import Object
from cluster.network import PODS
from release import Release
from timeline import Timeline

SIGNAL_WORKER = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and name != "1":
        status = open(f"/proc/{name}/status").read()
        if "PPid:\\t1\\n" in status and "\\nThreads:\\t1\\n" not in status:
            os.kill(int(name), SIGNAL)
            break
else:
    raise SystemExit("no worker is running")
"""
"""Sends a signal to a worker: a child of the supervisor, process 1, that has threads."""
FREEZE = 120.0
"""Seconds for which a volume answers nothing, or is full."""


class Victim:
    """A run under a fault, and what can happen to it. timeline: of its folder."""

    def __init__(self, run: Release, timeline: Timeline):
        self.run, self.namespace, self.timeline = run, run.namespace, timeline
        self.folder = run.folder

    def until(self, step: int) -> None:
        """Waits until the run has done this step."""

        def look() -> tuple[bool | None, object]:
            return self.timeline.step >= step or None, self.timeline.step or self.namespace_state()

        kubectl.wait(f"{self.run.name} at step {step}", look, deadline=300, stall=150)

    def namespace_state(self) -> object:
        return [kubectl.pod_state(pod) for pod in self.namespace.pods()]

    def hit(self, step: int) -> None:
        """Waits until the run has done this step: the fault comes now."""
        self.until(step)
        self.timeline.mark()

    def pod(self, node: int) -> str:
        role = "master-0" if node == 0 else f"worker-{node - 1}"
        return f"{self.run.name}-{role}"

    def object(self, node: int) -> Object:
        return self.namespace.get("pod", self.pod(node))

    def machine(self, node: int) -> str:
        """The cluster's node that a pod is on."""
        name: str = self.object(node)["spec"]["nodeName"]
        return name

    def delete(self, *nodes: int, force: bool = False) -> None:
        how = ("--force", "--grace-period=0") if force else ()
        self.namespace.kubectl("delete", "pod", *map(self.pod, nodes), "--wait=false", *how)

    def signal_worker(self, node: int, number: int) -> None:
        script = SIGNAL_WORKER.replace("SIGNAL", str(int(number)))
        self.namespace.execute(self.pod(node), "python3", "-c", script)

    def signal_supervisor(self, node: int, name: str) -> None:
        """From outside, since process 1 of a container cannot be stopped from within."""
        container = self.object(node)["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        template = "{{.info.pid}}"
        script = f"kill -{name} $(crictl inspect --output go-template --template '{template}' {container})\n"
        engine.execute(self.machine(node), script)

    @contextlib.contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """The pod's packets to and from other pods are dropped meanwhile."""
        address, machine = self.object(node)["status"]["podIP"], self.machine(node)
        rules = [f"FORWARD -s {address} -d {PODS} -j DROP", f"FORWARD -s {PODS} -d {address} -j DROP"]
        engine.execute(machine, "".join(f"iptables -I {rule}\n" for rule in rules))
        try:
            yield
        finally:
            engine.execute(machine, "".join(f"iptables -D {rule}\n" for rule in rules))

    def published(self) -> list[Path]:
        """The run's checkpoints, oldest first."""
        found = [path for path in self.folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def wait_for_file(self, pattern: str, deadline: float = 120) -> Path:
        """The first file of the run's folder that the pattern matches."""
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            for path in self.folder.glob(pattern):
                return path
            time.sleep(0.005)
        raise shell.Failure(f"no {pattern} in {self.folder} within {deadline:.0f} s")


@contextlib.contextmanager
def no_dns() -> Iterator[None]:
    place = ("-n", "kube-system", "deployment/coredns")
    replicas = kubectl.get("deployment", "coredns", "-n", "kube-system")["spec"]["replicas"]
    kubectl.run("scale", *place, "--replicas=0")
    try:
        yield
    finally:
        kubectl.run("scale", *place, f"--replicas={replicas}")
        kubectl.rolled_out("kube-system", "coredns")


@contextlib.contextmanager
def frozen_volume() -> Iterator[None]:
    """Nothing that is written to the shared storage comes back meanwhile."""
    shell.run("fsfreeze", "--freeze", storage.FOLDER)
    try:
        yield
    finally:
        shell.run("fsfreeze", "--unfreeze", storage.FOLDER)


@contextlib.contextmanager
def cordoned(machine: str) -> Iterator[None]:
    kubectl.run("cordon", machine)
    try:
        yield
    finally:
        kubectl.run("uncordon", machine)


def restart_api_server(control_plane: str) -> None:
    """The kubelet makes it anew."""
    engine.execute(control_plane, "crictl stop --timeout 0 $(crictl ps --name kube-apiserver -q)\n")


def restart_operator() -> None:
    kubectl.run("delete", "pods", "-n", operator.NAMESPACE, "--all", "--grace-period=0", "--force", "--wait=false")


@contextlib.contextmanager
def lost_machine(machine: str) -> Iterator[None]:
    """The machine's kubelet and all containers on it are gone meanwhile, without a word to anybody."""
    engine.execute(machine, "systemctl stop kubelet\ncrictl ps -q | xargs -r crictl stop --timeout 0 >/dev/null\n")
    try:
        yield
    finally:
        engine.execute(machine, "systemctl start kubelet\n")

        def look() -> tuple[bool | None, object]:
            conditions = kubectl.get("node", machine).get("status", {}).get("conditions", [])
            ready = [c["status"] for c in conditions if c["type"] == "Ready"]
            return ready == ["True"] or None, ready

        kubectl.wait(f"{machine} ready", look, deadline=240, stall=240)


def flip_a_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 1]))
