"""The chart's example files against the API server, its CRDs and the operators' webhooks."""

import json
from pathlib import Path

import pytest
import yaml

from cluster import addons, kubectl
from cluster.kubectl import Object
from cluster.namespace import Namespace
from release import CHART

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
each_example = pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])


@each_example
def test_an_example_is_admitted(namespace: Namespace, file: Path) -> None:
    documents = rendered(namespace, file)
    if any(document["kind"] == "TrainJob" for document in documents):
        addons.trainer()
        [runtime, *_] = [document for document in documents if document["kind"] == "TrainingRuntime"]
        namespace.apply(runtime)  # a TrainJob is refused without it
        documents = [document for document in documents if document["kind"] != "TrainingRuntime"]
    assert_admitted(namespace, documents)
    assert not kubectl.get("pods", "-n", namespace.name).get("items")


@each_example
def test_the_pods_of_an_example_are_admitted(namespace: Namespace, file: Path) -> None:
    """The API server checks a pod when an operator creates it, not when it takes the job."""
    templates = [template for document in rendered(namespace, file) for template in pod_templates(document)]
    assert templates
    namespace.wait("the service account of pods is there", lambda: namespace.get("serviceaccount", "default") or None)
    assert_admitted(namespace, [as_pod(template, f"run1-{index}") for index, template in enumerate(templates)])


def rendered(namespace: Namespace, file: Path) -> list[Object]:
    text = namespace.helm("template", "run1", CHART, "-f", file).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def pod_templates(document: Object) -> list[Object]:
    if document["kind"] == "PyTorchJob":
        return [replica["template"] for replica in document["spec"]["pytorchReplicaSpecs"].values()]
    if document["kind"] == "TrainingRuntime":
        jobs = document["spec"]["template"]["spec"]["replicatedJobs"]
        return [job["template"]["spec"]["template"] for job in jobs]
    return []


def as_pod(template: Object, name: str) -> Object:
    """The pod of a template. Operators set a restart policy that a pod can have."""
    metadata = template["metadata"] | {"name": name}
    spec = template["spec"] | {"restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def assert_admitted(namespace: Namespace, documents: list[Object]) -> None:
    """The API server takes them all, in a dry run."""
    bundle = {"apiVersion": "v1", "kind": "List", "items": documents}
    told = namespace.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(bundle))
    assert told.count("serverside-applied (server dry run)") == len(documents), told
