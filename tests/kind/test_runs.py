"""Runs on the cluster: each ends with the losses of the same run on one machine."""

from pathlib import Path
from typing import Any

import pytest

from cluster.kubectl import Object
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from release import TINY, Release, train_here

SAMPLE: dict[str, Any] = {
    "model": {"name": "sample"},
    "data": {"files": ["/data/texts.jsonl"], "split_column": "split", "max_length": 128},
    "batch": {"tokens": 512, "samples": 8, "micro_batches": 2},
    "optimizer": {"learning_rate": 4e-4},
    "schedule": {"max_steps": 10},
    "evaluation": {"samples": 64},
}


def test_two_nodes_train_the_sample_as_two_processes_of_one_machine_do(
    cluster: Cluster, namespace: Namespace, image: str, inputs: Path, tmp_path: Path
) -> None:
    run = Release(namespace, image, inputs, {"gpus": 0, "nodes": 2, "trainer": SAMPLE})
    assert "run1 trains on 2 nodes with 1 process each" in run.install()
    run.succeeded()
    assert {pod["spec"]["nodeName"] for pod in run.pods()} == set(cluster.workers)
    assert (run.folder / "final" / "model.safetensors").exists() or list((run.folder / "final").glob("*.safetensors"))
    assert run.info()["status"] == "finished" and run.info()["world_size"] == 2
    here = train_here(tmp_path / "here", inputs, SAMPLE, processes=2)
    assert len(here) == 10
    assert run.losses() == pytest.approx(here, abs=1e-6)


@pytest.mark.parametrize(("nodes", "processes"), [(1, 1), (3, 2)])
def test_any_number_of_nodes_gives_the_same_losses(
    namespace: Namespace, image: str, inputs: Path, tmp_path: Path, nodes: int, processes: int
) -> None:
    settings = TINY | {"model": {"name": "/data/bert"}}
    run = Release(namespace, image, inputs, {"nodes": nodes, "processesPerNode": processes, "trainer": settings})
    run.install()
    run.succeeded()
    workers = namespace.get("pytorchjob", "run1")["spec"]["pytorchReplicaSpecs"].get("Worker", {}).get("replicas", 0)
    assert workers == nodes - 1
    assert run.info()["world_size"] == nodes * processes
    assert run.losses() == pytest.approx(train_here(tmp_path / "here", inputs, settings, processes=1), abs=1e-5)


@pytest.mark.parametrize(("task", "model"), [("masked-lm", "bert"), ("causal-lm", "gpt2")])
def test_language_models_train_on_two_nodes(
    namespace: Namespace, image: str, inputs: Path, tmp_path: Path, task: str, model: str
) -> None:
    settings = TINY | {"task": task, "model": {"name": f"/data/{model}"}, "batch": {"tokens": 512, "micro_batches": 2}}
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": settings})
    run.install()
    run.succeeded()
    assert run.losses() == pytest.approx(train_here(tmp_path / "here", inputs, settings, processes=2), abs=1e-6)
    assert any("eval_perplexity" in line for line in run.metrics())


def test_a_run_that_is_installed_again_goes_on_where_it_was(
    cluster: Cluster, namespace: Namespace, image: str, inputs: Path, tmp_path: Path
) -> None:
    settings = TINY | {"model": {"name": "/data/bert"}, "schedule": {"kind": "constant", "max_steps": 6}}
    longer = settings | {"schedule": {"kind": "constant", "max_steps": 12}}
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": settings})
    run.install()
    run.succeeded()
    namespace.apply(*(_keeper(image, node) for node in cluster.workers))
    namespace.wait("the old settings kept", lambda: _all_run(namespace.pods("keeps=settings")))
    namespace.helm("uninstall", "run1")
    run.values |= {"nodes": 1, "trainer": longer}
    run.install()
    run.succeeded()
    assert [line["step"] for line in run.metrics() if line.get("event") == "resume"] == [6]
    assert run.losses() == pytest.approx(train_here(tmp_path / "here", inputs, longer, processes=1), abs=1e-5)


def _keeper(image: str, node: str) -> Object:
    """A pod for which the kubelet keeps its copy of run1's immutable settings, as for an earlier run's pod."""
    container = {
        "name": "keeper",
        "image": image,
        "command": ["sleep", "infinity"],
        "envFrom": [{"configMapRef": {"name": "run1-settings"}}],
    }
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}
    metadata = {"name": f"keeper-{node}", "labels": {"keeps": "settings"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _all_run(pods: list[Object]) -> bool | None:
    return all(pod["status"].get("phase") == "Running" for pod in pods) or None
