"""NOTES.txt: what a person reads after `helm install`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rendering import CHART, helm, needs_helm, pod

pytestmark = needs_helm


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as a manifest: Helm prints notes only where there is a cluster."""
    copy = shutil.copytree(CHART, tmp_path_factory.mktemp("notes") / "distrain")
    notes = (copy / "templates" / "NOTES.txt").read_text()
    inside = '{{ define "notes" }}' + notes + '{{ end }}\nnotes: {{ include "notes" . | quote }}\n'
    (copy / "templates" / "notes.yaml").write_text(inside)
    return copy


def notes(chart: Path, *settings: str) -> str:
    sets = [part for setting in settings for part in ("--set", setting)]
    result = helm("template", "run1", str(chart), "-n", "team", "-s", "templates/notes.yaml", *sets)
    assert result.returncode == 0, result.stderr
    return str(yaml.safe_load(result.stdout)["notes"])


def test_they_end_with_the_commands_to_type_next(chart: Path) -> None:
    *_, ours, pods, logs, uninstall = notes(chart, "gpus=16").strip().splitlines()
    assert ours == "  kubectl -n team get pytorchjob run1"
    assert pods == "  kubectl -n team get pods -l app.kubernetes.io/instance=run1"
    assert logs == "  kubectl -n team logs -f run1-master-0"
    assert uninstall == "  helm uninstall run1 -n team"
    assert "get trainjob run1" in notes(chart, "backend=trainjob")


def test_they_say_how_large_the_run_is_and_where_results_go(chart: Path) -> None:
    said = notes(chart, "gpus=16")
    assert "run1 trains on 2 nodes with 8 processes each, one per nvidia.com/gpu." in said
    assert "Results: claim run1-checkpoint, folder /run1 (the claim outlives helm uninstall)." in said
    assert "run1 trains on 1 node with 1 process, on the CPU." in notes(chart)
    assert "Results: claim runs, folder /run1." in notes(chart, "persistence.existingClaim=runs")


def test_they_say_how_to_push_an_image_where_none_is_named(chart: Path) -> None:
    assert "make image TARGET=cpu IMAGE=REGISTRY/distrain:0.1.0" in notes(chart)
    assert "make image TARGET=cuda" in notes(chart, "gpus=8")
    assert "REGISTRY" not in notes(chart, "image.repository=team/distrain")


def test_they_say_what_privileges_rdma_needs(chart: Path) -> None:
    said = notes(chart, "gpus=16", "rdma.enabled=true", "rdma.resource=rdma/hca")
    assert "kubectl label namespace team pod-security.kubernetes.io/enforce=privileged" in said
    assert "pod-security" not in notes(chart, "gpus=16")


def test_they_say_that_it_is_the_sample(chart: Path) -> None:
    assert "It trains the sample" in notes(chart)
    assert "sample" not in notes(chart, "trainer.data.files=/data/a.csv")


def test_they_say_what_a_claim_for_several_nodes_needs(chart: Path) -> None:
    assert "default storage class, which must offer ReadWriteMany" in notes(chart, "gpus=16")
    for settings in ("gpus=8", "gpus=16,persistence.storageClass=nfs", "gpus=16,persistence.existingClaim=runs"):
        assert "ReadWriteMany" not in notes(chart, settings)


def test_the_results_are_handed_out_by_a_restricted_pod(chart: Path) -> None:
    said = notes(chart, "gpus=16,rdma.enabled=true,rdma.resource=rdma/hca,imagePullSecrets={registry}")
    (line,) = [line for line in said.splitlines() if line.startswith("  echo '")]
    reader = json.loads(line.removeprefix("  echo '").removesuffix("' | kubectl -n team apply -f -"))
    trainer = pod("gpus=16,imagePullSecrets={registry}")["spec"]
    (container,) = reader["spec"]["containers"]
    assert container["image"] == trainer["containers"][0]["image"]
    assert container["securityContext"] == trainer["containers"][0]["securityContext"]
    for field in ("securityContext", "imagePullSecrets"):
        assert reader["spec"][field] == trainer[field]
    assert reader["spec"]["volumes"] == [volume for volume in trainer["volumes"] if volume["name"] == "out"]
    assert container["volumeMounts"] == [{"name": "out", "mountPath": "/out", "readOnly": True}]
    assert f"kubectl -n team cp {reader['metadata']['name']}:/out/run1/final final" in said


def test_they_say_what_uninstalling_does(chart: Path) -> None:
    assert "and leaves a checkpoint. Installed again under the same name, it resumes from there." in notes(chart)
    assert "removes the claim with all results" in notes(chart, "persistence.keepClaim=false")
    assert "resumes from there" in notes(chart, "persistence.keepClaim=false,persistence.existingClaim=runs")


def test_they_say_that_results_are_lost_without_persistence(chart: Path) -> None:
    said = notes(chart, "persistence.enabled=false")
    assert "The results are lost with the pod" in said
    assert "claim" not in said
    assert "helm uninstall stops the run at once.\n" in said
