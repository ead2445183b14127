"""The chart's example files against the API server, its CRDs and the operators' webhooks."""

import json
from pathlib import Path

import pytest
import yaml

from cluster import addons, kubectl
from cluster.namespace import Namespace
from release import CHART

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_an_example_is_admitted(namespace: Namespace, file: Path) -> None:
    rendered = namespace.helm("template", "run1", CHART, "-f", file).stdout
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    if any(document["kind"] == "TrainJob" for document in documents):
        addons.trainer()
        [runtime, *_] = [document for document in documents if document["kind"] == "TrainingRuntime"]
        namespace.apply(runtime)  # a TrainJob is refused without it
        documents = [document for document in documents if document["kind"] != "TrainingRuntime"]
    bundle = {"apiVersion": "v1", "kind": "List", "items": documents}
    told = namespace.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(bundle))
    assert told.count("serverside-applied (server dry run)") == len(documents), told
    assert not kubectl.get("pods", "-n", namespace.name).get("items")
