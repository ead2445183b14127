"""A cluster for the tests of the client that need one, and a client of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distrain_k8s.kube import client as kube
from distrain_k8s.kube.client import Api, Patience, connect
from fake_cluster import FakeCluster, fake_cluster
from helm_cluster import HELM, HelmCluster, helm_cluster, node


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """An API server with the kinds of the training operator and of Trainer v2, and nothing in it."""
    with fake_cluster() as made:
        yield made


@pytest.fixture
def said() -> list[str]:
    """What a person was told."""
    return []


@pytest.fixture
def api(cluster: FakeCluster, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Api:
    """The cluster, asked by somebody with little time."""
    monkeypatch.setattr(kube, "FIRST_PAUSE", 0.01)
    file = cluster.kubeconfig(tmp_path)
    return connect(kubeconfig=str(file), patience=Patience(connect=2, read=0.5, deadline=3), say=said.append)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HelmCluster]:
    """A cluster that the command finds, with room for small runs."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(str(HELM)).parent), os.environ["PATH"])))
    with helm_cluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
        monkeypatch.setenv("HELM_CACHE_HOME", str(tmp_path / "helm"))
        cluster.put("nodes", node("worker", cpu="8", memory="16Gi"))
        yield cluster
