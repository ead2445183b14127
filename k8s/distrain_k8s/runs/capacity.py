"""Whether a cluster has nodes that could hold a run's pods, however busy they are now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import GPU_MEMORY, GPU_PRODUCT
from distrain_k8s.kube.quantities import quantity
from distrain_k8s.kube.resources import NODES
from distrain_k8s.render import Document
from distrain_k8s.runs.request import Request


@dataclass(frozen=True)
class Capacity:
    """room: pods of the run that fit on the cluster's nodes while these are empty. with_device: nodes with that GPU.
    shut_out: why other nodes do not serve, and how many. gpu_memory: bytes of the smallest GPU that serves."""

    room: int
    with_device: int
    shut_out: Mapping[str, int]
    gpu_memory: int | None = None
    gpu_product: str | None = None

    def problem(self, request: Request) -> str | None:
        """Why the run would wait for nodes; None where it would not."""
        if self.room >= request.nodes:
            return None
        each = needs(request)
        waits = "the run will wait, unless nodes are added (cluster autoscaler)"
        if request.gpu_resource and not self.with_device:
            return f"no node of the cluster has {request.gpu_resource}; {waits}"
        reasons = [f"{count} {reason}" for reason, count in self.shut_out.items()]
        why = f" ({', '.join(reasons)})" if reasons else ""
        pods = f"{request.nodes} pods with {each} each" if request.nodes > 1 else f"a pod with {each}"
        room = f"room for {pods}, and the nodes have it for {self.room or 'none'}{why}"
        return f"the run needs {room}; {waits}"


def needs(request: Request) -> str:
    """What a pod requests, in words."""
    parts = [f"{request.gpus} {request.gpu_resource}"] if request.gpus else []
    if cpu := request.requests.get("cpu"):
        parts.append(f"{cpu:g} CPUs")
    if memory := request.requests.get("memory"):
        parts.append(f"{memory / 2**30:.3g}Gi of memory")
    return ", ".join(parts)


def read_capacity(api: Api, request: Request) -> Capacity:
    """Asks for all nodes. Raises Forbidden where the user may not list them."""
    room, with_device = 0, 0
    shut_out: dict[str, int] = {}
    memories: list[int] = []
    product = None
    for node in api.list(NODES):
        labels = node["metadata"].get("labels") or {}
        allocatable = node.get("status", {}).get("allocatable") or {}
        if request.gpu_resource and not quantity(allocatable.get(request.gpu_resource, 0)):
            continue
        with_device += 1
        if reason := _shut_out(node, request.pod["spec"], labels):
            shut_out[reason] = shut_out.get(reason, 0) + 1
            continue
        fit = min(
            (int(quantity(allocatable.get(n, 0)) // amount) for n, amount in request.requests.items() if amount),
            default=1,
        )
        if fit == 0:
            shut_out["too small"] = shut_out.get("too small", 0) + 1
            continue
        room += fit
        if labels.get(GPU_MEMORY, "").isdigit():
            memories.append(int(labels[GPU_MEMORY]) * 2**20)
            product = labels.get(GPU_PRODUCT, product)
    return Capacity(room, with_device, shut_out, min(memories, default=None), product)


def _shut_out(node: Document, spec: Document, labels: Mapping[str, str]) -> str | None:
    """Why the scheduler would pass over a node."""
    wanted = spec.get("nodeSelector") or {}
    missing = {name for name, value in wanted.items() if labels.get(name) != value}
    if missing:
        return f"without the label {min(missing)}={wanted[min(missing)]}"
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    for taint in node.get("spec", {}).get("taints") or []:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not any(
            _tolerates(toleration, taint) for toleration in spec.get("tolerations") or []
        ):
            return f"with the taint {taint['key']}:{taint['effect']}, which tolerations do not name"
    avoided = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    for term in (avoided or {}).get("nodeSelectorTerms", []):
        for field in term.get("matchFields", []):
            if field["operator"] == "NotIn" and node["metadata"]["name"] in field["values"]:
                return "in avoidNodes"
    return None


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
