"""A Kueue queue with room for one run of two nodes."""

from typing import Any

from cluster import addons
from cluster.namespace import Namespace

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "queue"


def one_run_at_a_time(namespace: Namespace) -> None:
    """Makes the queue `QUEUE` in a namespace, whose quota has room for two pods of 100m and not for three. A run of a
    higher priority takes the place of one of a lower."""
    addons.kueue()
    resources = [{"name": "cpu", "nominalQuota": "250m"}, {"name": "memory", "nominalQuota": "4Gi"}]
    spec: dict[str, Any] = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
        "resourceGroups": [
            {"coveredResources": ["cpu", "memory"], "flavors": [{"name": namespace.name, "resources": resources}]}
        ],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    namespace.apply(
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": namespace.name}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": namespace.name}, "spec": spec},
        {
            "apiVersion": API,
            "kind": "LocalQueue",
            "metadata": {"name": QUEUE},
            "spec": {"clusterQueue": namespace.name},
        },
    )


def priority(namespace: Namespace, name: str, value: int) -> str:
    """Makes a WorkloadPriorityClass for the runs of a namespace and returns its name."""
    name = f"{namespace.name}-{name}"
    namespace.apply({"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value})
    return name
