"""Pod Security `restricted`: the chart's pods are admitted as they are."""

import os
from pathlib import Path

from cluster import kubectl, operator, shell
from cluster.namespace import Namespace
from release import TINY, Release


def test_a_run_is_admitted_where_pod_security_is_restricted_and_hands_out_its_results(
    namespace: Namespace, image: str, inputs: Path, tmp_path: Path
) -> None:
    namespace.enforce("restricted")
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": TINY | {"model": {"name": "/data/bert"}}})
    with operator.init_container_template():  # the operator's own init container is not admitted: see test_cluster
        notes = run.install()
        assert "Warning" not in notes
        run.succeeded()
    messages = [event.get("message", "") for event in namespace.get("events").get("items", [])]
    assert not [text for text in messages if "violates PodSecurity" in text]

    commands = notes.partition("hands out the results:\n")[2].partition("\n\n")[0]
    ours = {"PATH": f"{shell.BIN}:{os.environ['PATH']}", "KUBECONFIG": str(kubectl.KUBECONFIG)}
    done = shell.run("bash", "-euc", commands, env=ours, cwd=tmp_path, timeout=180)
    assert "Warning" not in done.stderr
    assert (tmp_path / "report.html").stat().st_size > 0
    assert (tmp_path / "final" / "config.json").exists()
