"""What dies, hangs or is cut off: each fault of the chaos suite as it happens to a run on the cluster."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from cluster import engine, kubectl, operator, shell, storage
from cluster.kubectl import Object
from cluster.network import PODS
from distrain_k8s.kube.objects import COMPLETION_INDEX
from release import Release
from timeline import Timeline


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

    def object(self, node: int) -> Object:
        """The pod of a node, the newest where one is on its way out."""
        role = f"{self.run.name}-master-0" if node == 0 else f"{self.run.name}-worker-{node - 1}"

        def is_it(pod: Object) -> bool:
            index = pod["metadata"].get("annotations", {}).get(COMPLETION_INDEX)
            return bool(pod["metadata"]["name"] == role if index is None else index == str(node))

        pods = [pod for pod in self.run.pods() if is_it(pod)]
        return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def pod(self, node: int) -> str:
        name: str = self.object(node)["metadata"]["name"]
        return name

    def machine(self, node: int) -> str:
        """The cluster's node that a pod is on."""
        name: str = self.object(node)["spec"]["nodeName"]
        return name

    def delete(self, *nodes: int, force: bool = False) -> None:
        how = ("--force", "--grace-period=0") if force else ()
        self.namespace.kubectl("delete", "pod", *map(self.pod, nodes), "--wait=false", *how)

    def supervisor(self, node: int) -> psutil.Process:
        """Process 1 of a pod, as this machine sees it: what is told the pod's host name, by somebody who
        is not."""
        pod = self.object(node)
        host = pod["spec"].get("hostname", pod["metadata"]["name"])
        found = [process for process in psutil.process_iter() if _told(process, host)]
        [first] = [process for process in found if not _told(process.parent(), host)]
        return first

    def worker(self, node: int) -> psutil.Process:
        """The first worker of a pod, as this machine sees it; between two attempts it is waited for."""

        def look() -> tuple[psutil.Process | None, object]:
            with contextlib.suppress(psutil.NoSuchProcess):
                return max(self.supervisor(node).children(), key=psutil.Process.num_threads, default=None), None
            return None, "no supervisor"

        return kubectl.wait(f"node {node} has a worker", look, deadline=120, stall=120)

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


def _told(process: psutil.Process | None, host: str) -> bool:
    try:
        return process is not None and process.environ().get("HOSTNAME") == host
    except psutil.Error:
        return False


def restart_api_server(control_plane: str) -> None:
    """The kubelet makes it anew, which is waited for."""
    engine.execute(control_plane, "kill -9 $(pidof kube-apiserver)\n")
    time.sleep(2)

    def look() -> tuple[bool | None, object]:
        answer = kubectl.run("get", "--raw", "/readyz", check=False)
        return answer == "ok" or None, answer

    kubectl.wait("the API server is ready", look, deadline=180, stall=180)


def restart_operator() -> None:
    kubectl.run("delete", "pods", "-n", operator.NAMESPACE, "--all", "--grace-period=0", "--force", "--wait=false")


def operators_machine() -> str:
    """The cluster's node that the operator is on."""
    name: str = kubectl.get("pods", "-n", operator.NAMESPACE)["items"][0]["spec"]["nodeName"]
    return name


def keep_operator_off(machine: str) -> None:
    """Has the operator run on another machine."""
    with cordoned(machine):
        restart_operator()
        kubectl.rolled_out(operator.NAMESPACE, operator.NAME)
        operator.wait_for_webhook()


@contextlib.contextmanager
def lost_machine(machine: str) -> Iterator[None]:
    """The machine's kubelet and all containers on it are gone meanwhile, without a word to anybody."""
    kill_all = "ctr -n k8s.io task ls -q | xargs -r -n 1 ctr -n k8s.io task kill -s SIGKILL"
    engine.execute(machine, f"systemctl stop kubelet\n{kill_all}\n")
    try:
        yield
    finally:
        engine.execute(machine, "systemctl start kubelet\n")
        kubectl.wait(f"{machine} ready", lambda: condition(machine, "Ready", "True"), deadline=240, stall=240)


@contextlib.contextmanager
def disk_pressure(machine: str) -> Iterator[Callable[[], None]]:
    """Yields what fills the disk of a machine beyond what its kubelet leaves free, so that it evicts; undone after."""
    config, filler = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/filler"
    free = int(engine.execute(machine, "df --block-size=1 --output=avail /var/lib/kubelet | tail -1\n"))
    least = f"s/(nodefs.available:).*/\\1 '{free - (1 << 30)}'/"
    engine.execute(machine, f'cp {config} {config}.kept\nsed -E -i "{least}" {config}\nsystemctl restart kubelet\n')

    def fill() -> None:
        engine.execute(machine, f"fallocate -l 6G {filler}\n")

    try:
        yield fill
    finally:
        engine.execute(machine, f"rm -f {filler}\nmv {config}.kept {config}\nsystemctl restart kubelet\n")
        kubectl.wait(f"{machine} without pressure", lambda: condition(machine, "DiskPressure", "False"), 120, 120)


def condition(machine: str, kind: str, wanted: str) -> tuple[bool | None, object]:
    """Whether a condition of a node is as wanted, and what it is."""
    conditions = kubectl.get("node", machine).get("status", {}).get("conditions", [])
    found = [condition["status"] for condition in conditions if condition["type"] == kind]
    return found == [wanted] or None, found


def flip_a_bit(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 1]))
