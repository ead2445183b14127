"""The nodes: one control plane and two workers, made by kind, looked after, and removed."""

import json
from pathlib import Path
from typing import NamedTuple

from cluster import engine, kubectl, node_image, published, shell, storage
from cluster.shell import BIN, CACHE, Failure, step

CLUSTER = "distrain"
NODES = [f"{CLUSTER}-control-plane", f"{CLUSTER}-worker", f"{CLUSTER}-worker2"]
WORKERS = NODES[1:]


def kind(*arguments: str | Path, timeout: float = 120) -> str:
    provider = {"KIND_EXPERIMENTAL_PROVIDER": engine.name()}
    return shell.run(BIN / "kind", *arguments, timeout=timeout, env=provider).stdout


def configuration() -> dict[str, object]:
    mounts = [{"hostPath": str(storage.FOLDER), "containerPath": storage.ON_NODES}]
    nodes = [{"role": role, "extraMounts": mounts} for role in ("control-plane", "worker", "worker")]
    described: dict[str, object] = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
    # operators wait for kubelet to bring them the certificates that they have made: not for a minute
    kubelet = {"kind": "KubeletConfiguration", "syncFrequency": "10s"}
    if not published.reachable():
        kubelet |= {"cgroupDriver": "cgroupfs", "cgroupRoot": "/kubelet"}
        described["networking"] = {"disableDefaultCNI": True}
    described["kubeadmConfigPatches"] = [json.dumps(kubelet)]
    return described


def create() -> None:
    image = node_image.get()
    file = CACHE / "kind.json"
    file.write_text(json.dumps(configuration()))
    with step("creating three nodes"):
        kind(
            *("create", "cluster", "--name", CLUSTER, "--image", image, "--config", file),
            *("--kubeconfig", kubectl.KUBECONFIG, "--retain"),  # what failed can be looked at; `up` removes it
            timeout=600,
        )


def delete() -> None:
    # gigabytes of images go with the nodes, which takes minutes on a busy machine
    kind("delete", "cluster", "--name", CLUSTER, "--kubeconfig", kubectl.KUBECONFIG, timeout=600)
    kubectl.KUBECONFIG.unlink(missing_ok=True)


class Container(NamedTuple):
    name: str
    state: str
    image: str


def containers() -> list[Container]:
    found = engine.call("ps", "-aq", "--filter", f"label=io.x-k8s.kind.cluster={CLUSTER}").split()
    if not found:
        return []
    lines = engine.call("inspect", "--format", "{{.Name}} {{.State.Status}} {{.Config.Image}}", *found).splitlines()
    return [Container(*line.removeprefix("/").split()) for line in lines]


def made_here() -> bool:
    """Whether the nodes run an image made on this machine, not kind's own."""
    return all(container.image == node_image.name() for container in containers())


def fault() -> str | None:
    """Why the nodes cannot be used, if they can't."""
    found = containers()
    missing = set(NODES) - {container.name for container in found}
    if missing:
        return f"{', '.join(sorted(missing))} not there"
    for container in found:
        if container.state != "running":
            return f"{container.name} is {container.state}"
        if container.image != node_image.name() and published.NODE_DIGEST not in container.image:
            return f"{container.name} is of another image"
    try:
        registered = {node["metadata"]["name"] for node in kubectl.get("nodes")["items"]}
        for node in NODES:
            engine.call("exec", node, "mountpoint", "-q", storage.ON_NODES)
    except Failure as failure:
        return str(failure)
    return None if registered >= set(NODES) else "a node is not registered"


def wait_until_ready() -> None:
    def look() -> tuple[bool | None, object]:
        ready = {
            node["metadata"]["name"]: [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
            for node in kubectl.get("nodes").get("items", [])
            if node["metadata"]["name"] in NODES
        }
        return list(ready.values()) == [["True"]] * len(NODES) or None, ready

    kubectl.wait("three nodes ready", look, deadline=180, stall=90)


def promise_gpus(count: int) -> None:
    """Lets the workers claim to have GPUs; kubelet forgets it when it starts anew."""
    patch = json.dumps({"status": {"capacity": {"nvidia.com/gpu": str(count)}}})
    for worker in WORKERS:
        kubectl.run("patch", "node", worker, "--subresource=status", "--type=merge", "-p", patch)

    def look() -> tuple[bool | None, object]:
        items = [node for node in kubectl.get("nodes")["items"] if node["metadata"]["name"] in WORKERS]
        seen = [node["status"]["allocatable"].get("nvidia.com/gpu") for node in items]
        return seen == [str(count)] * len(WORKERS) or None, seen

    kubectl.wait(f"{count} GPUs on each worker", look, deadline=90, stall=60)
