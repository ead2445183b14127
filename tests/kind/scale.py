"""8,192 GPUs on 1,024 nodes that kwok plays (`make scale-test`): prints how long it takes, how large the release is."""

import json
import time
from pathlib import Path

import pytest

from cluster import fleet, kubectl
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from release import TINY, Release

NODES = 1024
HELM_LIMIT = 1 << 20
"""Bytes of a Secret, which a release must fit into."""


def test_a_run_of_8192_gpus_is_bound_pod_by_pod(
    cluster: Cluster, namespace: Namespace, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "gpus": 8 * NODES,
        "nodeSelector": {"type": "kwok"},
        "tolerations": [fleet.TOLERATION],
        "trainer": TINY | {"model": {"name": "/data/bert"}},
    }
    run = Release(namespace, f"{cluster.shell_image.rpartition(':')[0]}:fake", inputs, values)
    told = [f"{len(json.dumps(run.manifests())):,} bytes of manifests"]
    with fleet.of_fake_nodes(NODES):
        started = time.monotonic()
        run.install()
        told.append(f"installed after {time.monotonic() - started:.0f} s")

        def look() -> tuple[dict[str, str] | None, object]:
            path = '{range .items[*]}{.metadata.name} {.spec.nodeName}{"\\n"}{end}'
            lines = namespace.kubectl("get", "pods", "-o", f"jsonpath={path}", timeout=120).splitlines()
            bound = dict(line.split() for line in lines if " " in line.strip())
            return bound if len(bound) == NODES else None, len(bound)

        bound = kubectl.wait(f"{NODES} pods bound", look, deadline=900, stall=120)
        told.append(f"{len(bound):,} pods bound after {time.monotonic() - started:.0f} s")
        assert len(set(bound.values())) == NODES, "two pods share a node"
        [secret] = namespace.get("secrets", "-l", "owner=helm")["items"]
        size = len(secret["data"]["release"])
        told.append(f"release: {size:,} bytes of {HELM_LIMIT:,}")
        assert size < HELM_LIMIT / 10
        namespace.helm("uninstall", "run1", timeout=120)

        def gone() -> tuple[bool | None, object]:
            left = namespace.kubectl("get", "pods", "-o", "name", timeout=120).count("pod/")
            return not left or None, left

        kubectl.wait("all pods gone", gone, deadline=600, stall=120)
        told.append(f"gone after {time.monotonic() - started:.0f} s")
    with capsys.disabled():
        print("", *told, sep="\n  ")
