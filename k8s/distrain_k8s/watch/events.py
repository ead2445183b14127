"""What the cluster has told about a run."""

from typing import Any

from distrain_k8s.kube.objects import Event


def data_of(event: Event) -> dict[str, Any]:
    """An event as plain data, for json and yaml."""
    return {
        "first": event.first,
        "last": event.last,
        "count": event.count,
        "type": event.type,
        "reason": event.reason,
        "about": f"{event.kind}/{event.name}",
        "message": event.message,
    }
