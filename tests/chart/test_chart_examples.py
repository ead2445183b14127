"""Each file of examples/ renders to what its first line says, and the trainer takes its settings."""

import pytest

from distrain_trainer.settings.reader import read_settings
from rendering import CHART, Document, document, documents, needs_helm

pytestmark = needs_helm

EXAMPLES = {
    # file: job, nodes, processes a node, GPUs a node
    "one-node.yaml": ("PyTorchJob", 1, 8, 8),
    "rdma.yaml": ("PyTorchJob", 4, 8, 8),
    "cpu.yaml": ("PyTorchJob", 3, 2, 0),
    "function-calling.yaml": ("PyTorchJob", 1, 2, 2),
    "kueue.yaml": ("PyTorchJob", 2, 8, 8),
    "trainjob.yaml": ("TrainJob", 2, 4, 4),
}


def text(file: str) -> str:
    return (CHART / "examples" / file).read_text()


def pods(file: str) -> tuple[int, int, Document]:
    """Number of nodes, processes a node, and the pod of a node."""
    if EXAMPLES[file][0] == "TrainJob":
        trainer = document("TrainJob", values=text(file))["spec"]["trainer"]
        (job,) = document("TrainingRuntime", values=text(file))["spec"]["template"]["spec"]["replicatedJobs"]
        return trainer["numNodes"], trainer["numProcPerNode"], job["template"]["spec"]["template"]
    job = document("PyTorchJob", values=text(file))["spec"]
    specs = job["pytorchReplicaSpecs"]
    return sum(spec["replicas"] for spec in specs.values()), int(job["nprocPerNode"]), specs["Master"]["template"]


def test_every_example_is_tested() -> None:
    assert {path.name for path in (CHART / "examples").iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize("file", EXAMPLES)
def test_an_example_has_the_size_that_it_says(file: str) -> None:
    _, nodes, processes, gpus = EXAMPLES[file]
    found_nodes, found_processes, pod = pods(file)
    assert (found_nodes, found_processes) == (nodes, processes)
    assert pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_trainer_takes_an_examples_settings(file: str) -> None:
    data = document("ConfigMap", values=text(file))["data"]
    settings = read_settings(None, {}, {name: value for name, value in data.items() if name.startswith("DISTRAIN_")})
    _, nodes, processes, _ = EXAMPLES[file]
    assert (settings.batch.micro_batches or 1) % (nodes * processes) == 0, (
        "some processes would have less to do than others"
    )


@pytest.mark.parametrize("file", EXAMPLES)
def test_several_nodes_share_what_they_write(file: str) -> None:
    claims = [found for found in documents(values=text(file)) if found["kind"] == "PersistentVolumeClaim"]
    assert all(claim["spec"]["accessModes"] == ["ReadWriteMany"] for claim in claims if EXAMPLES[file][1] > 1)


def test_rdma_has_its_device_capability_network_and_budget() -> None:
    _, _, pod = pods("rdma.yaml")
    (trainer,) = pod["spec"]["containers"]
    assert trainer["resources"]["limits"]["rdma/hca"] == 1
    assert trainer["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == "rdma-network"
    assert document("PodDisruptionBudget", values=text("rdma.yaml"))["spec"]["minAvailable"] == 4


def test_kueue_finds_its_queue() -> None:
    labels = document("PyTorchJob", values=text("kueue.yaml"))["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
