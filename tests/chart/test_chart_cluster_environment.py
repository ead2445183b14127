"""The variables that the chart sets for the trainer are those that the trainer reads."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from distrain_trainer.launch.cluster_environment import ClusterEnvironment, variable
from rendering import CHART, Values, documents, needs_helm

pytestmark = needs_helm

READ = {variable(field) for field in ClusterEnvironment.model_fields}
LEAST: Values = {"gpus": 0, "nodes": 1}
MOST: Values = {
    "gpus": 16,
    "metrics": {"enabled": True},
    "rdma": {"enabled": True, "resource": "rdma/hca"},
}


def told(found: Any) -> Iterator[tuple[str, str]]:
    """Variable and value of each `RUN_` variable in a rendered document; a value that a pod fills in is `filled`."""
    if isinstance(found, dict):
        if str(found.get("name")).startswith("RUN_"):
            yield found["name"], found.get("value", "filled")
        for name, value in found.items():
            if name.startswith("RUN_"):
                yield name, value
            yield from told(value)
    elif isinstance(found, list):
        for value in found:
            yield from told(value)


def test_the_trainer_reads_every_variable_that_the_chart_can_set() -> None:
    sources = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    assert set(re.findall(r"\bRUN_[A-Z_]+", sources)) <= READ


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_the_chart_sets_every_variable_that_the_trainer_reads(backend: str) -> None:
    variables = dict(told(documents(values=MOST | {"backend": backend})))
    assert set(variables) == READ
    environment = ClusterEnvironment.read(variables)
    assert environment.gpus_per_node == 8 and environment.rdma and environment.node_name == "filled"


def test_a_run_on_cpus_is_promised_neither_gpus_nor_rdma() -> None:
    environment = ClusterEnvironment.read(dict(told(documents(values=LEAST))))
    assert environment.gpus_per_node == 0 and not environment.rdma and environment.metrics_port is None
