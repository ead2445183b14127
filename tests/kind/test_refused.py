"""What a run must not do: train on a CPU where GPUs were promised, change in its middle, or run half-changed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import kubectl
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from cluster.shell import Failure
from release import TINY, Release

TINY_BERT = TINY | {"model": {"name": "/data/bert"}}


@pytest.fixture
def gpus(cluster: Cluster) -> Iterator[None]:
    """8 GPUs on each worker's status, until kubelet forgets them."""

    def set_to(count: str) -> None:
        for node in cluster.workers:
            sizes = {"nvidia.com/gpu": count}
            patch = '{"status": {"capacity": %s, "allocatable": %s}}' % ((str(sizes).replace("'", '"'),) * 2)
            kubectl.run("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)

    set_to("8")
    yield
    set_to("0")


def test_sixteen_promised_gpus_that_are_none_end_the_run_with_64(
    cluster: Cluster, namespace: Namespace, image: str, inputs: Path, gpus: None
) -> None:
    run = Release(namespace, image, inputs, {"gpus": 16, "trainer": TINY_BERT})
    assert "2 nodes with 8 processes each, one per nvidia.com/gpu" in run.install()

    def scheduled() -> set[str] | None:
        nodes = [pod["spec"].get("nodeName", "") for pod in run.pods()]
        return set(nodes) if len(nodes) == 2 and all(nodes) else None

    assert namespace.wait("both pods are scheduled", scheduled) == set(cluster.workers)
    assert run.ended() == "Failed"
    words = run.last_words()  # of those that the operator has left: it removes what still runs
    assert words and all(code == 64 for code, _ in words.values()), words
    assert any("8 GPUs per node were promised but there is no CUDA device" in said for _, said in words.values()), words
    assert not run.folder.exists() or not list(run.folder.glob("checkpoint-*"))


def test_a_run_cannot_change_while_it_is_installed(namespace: Namespace, image: str, inputs: Path) -> None:
    run = Release(namespace, image, inputs, {"trainer": TINY_BERT | {"schedule": {"epochs": 1000}}})
    run.install()
    assert "has been upgraded" in run.install("upgrade")  # to what it is

    run.values["trainer"] = TINY_BERT | {"schedule": {"epochs": 1000}, "seed": 7}
    refusal = run.install("upgrade", check=False)
    assert "DISTRAIN_SEED" in refusal or "trainer.seed" in refusal, refusal
    assert "helm uninstall run1" in refusal, refusal

    [settings] = [found for found in run.manifests() if found["kind"] == "ConfigMap"]
    with pytest.raises(Failure, match="immutable"):  # without Helm's look at the cluster, as Argo CD applies it
        namespace.apply(settings)


def test_nodes_with_other_settings_refuse_to_meet(namespace: Namespace, image: str, inputs: Path) -> None:
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": TINY_BERT})
    found = run.manifests()
    [job] = [document for document in found if document["kind"] == "PyTorchJob"]
    [trainer] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    [variable] = [item for item in trainer["env"] if item["name"] == "RUN_SETTINGS_HASH"]
    variable["value"] = "0" * 64
    namespace.apply(*found)
    assert run.ended() == "Failed"
    words = run.last_words()
    assert any(code == 64 and "the hash of the settings is 0000" in said for code, said in words.values()), words


def test_settings_that_make_no_sense_end_the_run_at_once(namespace: Namespace, image: str, inputs: Path) -> None:
    run = Release(namespace, image, inputs, {"trainer": TINY_BERT | {"model": {"name": "/data/nothing"}}})
    run.install()
    assert run.ended(deadline=120) == "Failed"
    assert run.last_words() == {"run1-master-0": (64, "model.name /data/nothing is not a folder here; check the path")}


def test_a_claim_that_was_kept_serves_another_number_of_nodes(namespace: Namespace, image: str, inputs: Path) -> None:
    long = TINY_BERT | {"schedule": {"epochs": 1000}}
    run = Release(namespace, image, inputs, {"nodes": 2, "trainer": long})
    run.install()
    namespace.helm("uninstall", "run1")
    namespace.wait("the pods are gone", lambda: not run.pods() or None)
    run.values["nodes"] = 1
    run.install()
    assert namespace.get("pvc", "run1-checkpoint")["spec"]["accessModes"] == ["ReadWriteMany"]
