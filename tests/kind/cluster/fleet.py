"""Nodes that only seem to be there, by the thousand: kwok answers for them and for the pods on them."""

import contextlib
import json
from collections.abc import Iterator

from cluster import daemon, engine, kubectl, operator, tools
from cluster.kubectl import Object
from cluster.shell import step

KEY = "kwok.x-k8s.io/node"
LABEL = "type=kwok"
SERVER = "127.0.0.1:10247"
TOLERATION = {"key": KEY, "operator": "Exists", "effect": "NoSchedule"}
"""What a pod needs, with the node selector type=kwok, to come to one of these nodes."""


@contextlib.contextmanager
def of_fake_nodes(count: int, gpus: int = 8) -> Iterator[None]:
    """So many ready nodes, and an operator that may call the API server often enough for them."""
    command = [str(tools.build("kwok")), "--kubeconfig", str(kubectl.KUBECONFIG), "--server-address", SERVER]
    command += ["--manage-nodes-with-annotation-selector", f"{KEY}=fake", "--node-lease-duration-seconds", "120"]
    command += ["--node-ip", engine.gateway("kind"), "--cidr", "10.128.0.1/16"]
    with operator.more_calls(per_second=200):
        daemon.start("kwok", command, f"http://{SERVER}/healthz")
        try:
            with step(f"making {count} fake nodes"):
                nodes = {"apiVersion": "v1", "kind": "List", "items": [node(index, gpus) for index in range(count)]}
                kubectl.run("create", "-f", "-", stdin=json.dumps(nodes), timeout=300)
                kubectl.wait(f"{count} fake nodes ready", lambda: all_ready(count), deadline=180, stall=60)
            yield
        finally:
            with step("removing the fake nodes"):
                kubectl.run("delete", "--raw", "/api/v1/nodes?labelSelector=type%3Dkwok", timeout=300)
                daemon.stop("kwok")


def node(index: int, gpus: int) -> Object:
    """Tainted against other pods; without the label of an operating system, so that kube-proxy stays away."""
    name = f"fake-{index:04}"
    resources = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {KEY: "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [{"key": KEY, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": resources, "capacity": resources},
    }


def all_ready(count: int) -> tuple[bool | None, object]:
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    ready = kubectl.run("get", "nodes", "-l", LABEL, "-o", f"jsonpath={path}").split().count("True")
    return ready == count or None, ready
