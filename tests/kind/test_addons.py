"""Runs with Kubeflow Trainer v2, and runs that wait in a Kueue queue."""

from pathlib import Path
from typing import Any

import pytest

import queues
from cluster import addons
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from release import TINY, Release, train_here

TINY_BERT = TINY | {"model": {"name": "/data/bert"}}


def test_a_trainjob_runs_on_two_nodes_to_complete(
    cluster: Cluster, namespace: Namespace, image: str, inputs: Path, tmp_path: Path
) -> None:
    addons.trainer()
    run = Release(namespace, image, inputs, {"backend": "trainjob", "nodes": 2, "trainer": TINY_BERT})
    run.install()
    run.succeeded()
    assert {pod["spec"]["nodeName"] for pod in run.pods()} == set(cluster.workers)
    assert run.losses() == pytest.approx(train_here(tmp_path / "here", inputs, TINY_BERT, processes=2), abs=1e-6)


def test_a_trainjob_with_bad_settings_fails_at_once(namespace: Namespace, image: str, inputs: Path) -> None:
    addons.trainer()
    wrong = TINY_BERT | {"model": {"name": "/data/nothing"}}
    run = Release(namespace, image, inputs, {"backend": "trainjob", "nodes": 2, "trainer": wrong})
    run.install()
    assert run.ended(deadline=180) == "Failed"


def test_a_run_waits_for_its_whole_quota_and_is_admitted_as_one(namespace: Namespace, image: str, inputs: Path) -> None:
    queues.one_run_at_a_time(namespace)
    values: dict[str, Any] = {"nodes": 2, "kueue": {"queue": queues.QUEUE}}
    long = TINY_BERT | {"schedule": {"max_steps": 40}}
    first = Release(namespace, image, inputs, values | {"trainer": long}, name="first")
    second = Release(namespace, image, inputs, values | {"trainer": TINY_BERT}, name="second")
    first.install()
    namespace.wait("the first run is admitted", lambda: suspended(namespace, "first") is False or None)
    second.install()
    namespace.wait("the second run is suspended", lambda: suspended(namespace, "second") or None)
    assert not second.pods()
    first.succeeded()
    second.succeeded()
    assert len(second.pods()) == 2


def suspended(namespace: Namespace, name: str) -> bool | None:
    """Whether a job is held back; None before anybody has decided."""
    policy = namespace.get("pytorchjob", name).get("spec", {}).get("runPolicy", {})
    found: bool | None = policy.get("suspend")
    return found
