"""The environment of the trainer's container: what the chart sets, and what its user does."""

import pytest

from rendering import Values, container, environment, needs_helm, volumes

pytestmark = needs_helm


def test_secrets_are_references_and_other_variables_plain() -> None:
    told = environment(
        container(
            values={
                "secrets": {
                    "HF_TOKEN": {"name": "hub", "key": "token"},
                    "WANDB_API_KEY": {"name": "wandb", "key": "k"},
                },
                "extraEnv": {"OMP_PROC_BIND": "close", "EIGHT": 8, "LARGE": 1048576, "YES": True, "COLON": "a: b #c"},
                "nccl": {"NCCL_DEBUG": "INFO", "NCCL_IB_TIMEOUT": 22},
            }
        )
    )
    assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert told["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wandb", "key": "k"}}
    assert (told["EIGHT"], told["LARGE"], told["YES"], told["COLON"]) == ("8", "1048576", "true", "a: b #c")
    assert (told["NCCL_DEBUG"], told["NCCL_IB_TIMEOUT"]) == ("INFO", "22")


def test_nccl_chooses_the_interface_by_itself() -> None:
    assert not [name for name in environment(container("gpus=16")) if name.startswith("NCCL_")]


def test_proxy_and_certificates_reach_the_trainer() -> None:
    values = {"proxy": {"https": "http://proxy:3128"}, "caBundle": {"configMap": "authorities"}}
    told = environment(container(values=values))
    assert told["HTTPS_PROXY"] == "http://proxy:3128"
    assert ".svc" in told["NO_PROXY"]
    assert "HTTP_PROXY" not in told
    assert told["SSL_CERT_FILE"] == told["REQUESTS_CA_BUNDLE"] == told["CURL_CA_BUNDLE"] == "/etc/ca/ca.crt"
    assert {"name": "ca", "mountPath": "/etc/ca", "readOnly": True} in container(values=values)["volumeMounts"]
    assert volumes(**values)["ca"]["configMap"]["name"] == "authorities"
    assert "NO_PROXY" not in environment(container())


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_what_is_reached_without_a_proxy_stays_so_when_its_address_is_secret(name: str) -> None:
    told = environment(container(values={"secrets": {name: {"name": "p", "key": "k"}}, "proxy": {"noProxy": ".svc"}}))
    assert told["NO_PROXY"] == ".svc"


def test_the_trainer_knows_its_node_by_the_clusters_name() -> None:
    told = environment(container("gpus=8"))
    assert told["RUN_NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


RUN_VARIABLES = {"RUN_GPUS_PER_NODE", "RUN_GRACE_SECONDS", "RUN_NODE_NAME", "RUN_SETTINGS_HASH"}
RDMA = {"enabled": True, "resource": "rdma/hca"}


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({}, set()),
        ({"gpus": 16}, set()),
        ({"gpus": 16, "metrics": {"enabled": True}}, {"RUN_METRICS_PORT"}),
        ({"gpus": 16, "rdma": RDMA}, {"RUN_RDMA"}),
        ({"gpus": 16, "rdma": RDMA | {"enabled": False}}, set()),
    ],
)
def test_the_trainer_is_told_what_it_reads_and_nothing_else(values: Values, more: set[str]) -> None:
    told = environment(container(values=values))
    assert {name for name in told if name.startswith("RUN_")} == RUN_VARIABLES | more
    assert told.get("RUN_RDMA") == ("1" if "RUN_RDMA" in more else None)
