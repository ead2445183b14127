"""How gpus, nodes and processesPerNode become pods."""

import pytest

from rendering import container, document, documents, environment, needs_helm, pod, refusal, rendered, replicas

pytestmark = needs_helm

SIZES = [
    # settings, nodes, processes a node, GPUs a node
    ("gpus=8", 1, 8, 8),
    ("gpus=4", 1, 4, 4),
    ("gpus=1", 1, 1, 1),
    ("gpus=16", 2, 8, 8),
    ("gpus=16,nodes=2", 2, 8, 8),
    ("gpus=8,processesPerNode=8", 1, 8, 8),
    ("gpus=12,gpusPerNode=4", 3, 4, 4),
    ("gpus=6,gpusPerNode=6", 1, 6, 6),
    ("gpus=8192", 1024, 8, 8),
    ("gpus=0", 1, 1, 0),
    ("nodes=2", 2, 1, 0),
    ("gpus=0,nodes=2,gpusPerNode=8", 2, 1, 0),
    ("gpus=0,nodes=3,processesPerNode=2", 3, 2, 0),
    ("gpus=0,processesPerNode=4", 1, 4, 0),
]


@pytest.mark.parametrize(("settings", "nodes", "processes", "gpus"), SIZES)
def test_a_run_has_the_size_that_was_asked_for(settings: str, nodes: int, processes: int, gpus: int) -> None:
    job = document("PyTorchJob", settings)["spec"]
    assert job["nprocPerNode"] == str(processes)
    specs = job["pytorchReplicaSpecs"]
    assert specs["Master"]["replicas"] == 1
    assert specs.get("Worker", {}).get("replicas", 0) == nodes - 1
    for spec in specs.values():
        (trainer,) = spec["template"]["spec"]["containers"]
        assert trainer["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
        assert environment(trainer)["RUN_GPUS_PER_NODE"] == str(gpus)


@pytest.mark.parametrize(("settings", "nodes", "processes", "gpus"), SIZES)
def test_a_trainjob_has_the_same_size(settings: str, nodes: int, processes: int, gpus: int) -> None:
    trainer = document("TrainJob", settings, "backend=trainjob")["spec"]["trainer"]
    assert trainer == {"numNodes": nodes, "numProcPerNode": processes}
    assert document("TrainingRuntime", settings, "backend=trainjob")["spec"]["mlPolicy"]["numNodes"] == nodes


def test_one_node_is_a_master_alone() -> None:
    assert set(replicas("gpus=8")) == {"Master"}


@pytest.mark.parametrize(("resource", "a_pod"), [("amd.com/gpu", 2), ("nvidia.com/mig-1g.10gb", 1)])
def test_another_gpu_is_another_resource(resource: str, a_pod: int) -> None:
    values = {"gpuResource": resource, "gpusPerNode": a_pod}
    assert container("gpus=2", values=values)["resources"]["limits"] == {resource: a_pod}


USUAL = [
    # settings, what a pod requests
    ("gpus=0,processesPerNode=2", {"cpu": "500m", "memory": "1Gi"}),
    ("gpus=1", {"cpu": 3, "memory": "12Gi"}),
    ("gpus=16", {"cpu": 24, "memory": "96Gi"}),
    ("gpus=8,resources.requests.memory=1Ti", {"cpu": 24, "memory": "1Ti"}),
    # Kubernetes requests what is limited only, and refuses a request over its limit.
    ("gpus=8,resources.limits.memory=64Gi", {"cpu": 24}),
    ("resources.limits.memory=512Mi,resources.limits.cpu=250m", {}),
]


@pytest.mark.parametrize(("settings", "requests"), USUAL)
def test_what_a_pod_requests_grows_with_its_gpus(settings: str, requests: dict[str, str | int]) -> None:
    assert container(settings)["resources"]["requests"] == requests


def test_quantities_are_text_or_whole_numbers() -> None:
    """The schemas of jobs take nothing else: 0.5 is refused by the API server, '0.5' is not."""
    given = "{requests: {cpu: 0.5, memory: 1073741824, ephemeral-storage: 1e9}, limits: {cpu: 1.5, memory: 2e9}}"
    found = container(values=f"resources: {given}")["resources"]
    assert found == {
        "requests": {"cpu": "0.5", "memory": "1073741824", "ephemeral-storage": "1000000000"},
        "limits": {"cpu": "1.5", "memory": "2000000000"},
    }
    fetch = f"initContainers: [{{name: fetch, image: curl, resources: {given}}}]"
    assert pod(values=fetch)["spec"]["initContainers"][0]["resources"] == found


ABOVE = [
    # request, limit
    ("2", "1"),
    ("1", "500m"),
    ("0.501", "500m"),
    ("1Gi", "1023Mi"),
    ("1Gi", "1G"),
    ("1.5Ti", "1500Gi"),
    ("2e9", "1900M"),
]
WITHIN = [
    ("500m", "1"),
    ("1", "1000m"),
    ("1Gi", "1024Mi"),
    ("1G", "1Gi"),
    ("0.1Ti", "102.4Gi"),
    ("2e9", "2G"),
    ("1", "1"),
]


@pytest.mark.parametrize(("requested", "limit"), ABOVE)
def test_a_request_above_its_limit_is_refused(requested: str, limit: str) -> None:
    resources = f"resources: {{requests: {{memory: {requested}}}, limits: {{memory: {limit}}}}}"
    said = refusal(values=resources)
    assert "resources.requests.memory is" in said
    assert f"which is more than the limit of {limit}; lower the request or raise the limit" in said
    said = refusal(values=f"initContainers: [{{name: fetch, image: curl, {resources}}}]")
    assert "initContainers[0].resources.requests.memory is" in said


@pytest.mark.parametrize(("requested", "limit"), WITHIN)
def test_a_request_within_its_limit_is_taken(requested: str, limit: str) -> None:
    assert rendered(values=f"resources: {{requests: {{cpu: {requested}}}, limits: {{cpu: {limit}}}}}")


REFUSED = [
    ("gpus=12", "gpus is 12, but a node has 8 (gpusPerNode) and a run takes whole nodes; set gpus to 8 or 16"),
    ("gpus=9", "set gpus to 8 or 16"),
    ("gpus=17", "set gpus to 16 or 24"),
    ("gpus=100,gpusPerNode=16", "set gpus to 96 or 112"),
    ("gpus=7,gpusPerNode=4", "set gpus to 4 or 8"),
    ("gpus=16,nodes=4", "nodes is 4, but gpus=16 with gpusPerNode=8 makes 2; set gpus to 32, or set gpusPerNode to 4"),
    ("gpus=16,nodes=1", "set gpus to 8, or set gpusPerNode to 16"),
    ("gpus=16,nodes=3", "set gpus to 24, or remove nodes"),
    (
        "nodes=2,gpusPerNode=8",
        "gpusPerNode is 8, but gpus is not set, so the run would train on the CPU; set gpus to 16, or to 0 for the CPU",
    ),
    ("gpusPerNode=4", "set gpus to 4, or to 0 for the CPU"),
    ("gpus=16,processesPerNode=4", "processesPerNode is 4, but there is one process per GPU"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest(settings: str, sentence: str) -> None:
    assert sentence in refusal(settings)


def test_the_manifest_does_not_grow_with_the_run() -> None:
    assert len(rendered("gpus=65536")) - len(rendered("gpus=16")) < 50
    assert len(documents("gpus=65536")) == len(documents("gpus=16"))
