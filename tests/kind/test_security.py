"""Pod Security `restricted`: the chart's pods are admitted as they are."""

from pathlib import Path

from cluster import operator
from cluster.namespace import Namespace
from release import TINY, Release


def test_a_run_is_admitted_where_pod_security_is_restricted(namespace: Namespace, image: str, inputs: Path) -> None:
    namespace.enforce("restricted")
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": TINY | {"model": {"name": "/data/bert"}}})
    with operator.init_container_template():  # the operator's own init container is not admitted: see test_cluster
        assert "Warning" not in run.install()
        run.succeeded()
    messages = [event.get("message", "") for event in namespace.get("events").get("items", [])]
    assert not [text for text in messages if "violates PodSecurity" in text]
