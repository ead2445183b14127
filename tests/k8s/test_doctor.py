"""What the doctor says of a cluster, and that no secret leaves it."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from distrain_k8s.diagnose.doctor import enabled
from distrain_k8s.diagnose.redact import HIDDEN, redacted, redacted_text
from helm_cluster import HelmCluster, distrain, needs_helm, node

TOKEN = "hf_knownTokenThatMustNotBeShown0123456789"
DEPLOYMENTS = "apps/v1/deployments"
CLASSES = "storage.k8s.io/v1/storageclasses"
CRDS = "apiextensions.k8s.io/v1/customresourcedefinitions"
DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}
REVIEWS = "authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
def clinic(there: HelmCluster) -> HelmCluster:
    """A cluster in which all is well."""
    there.served |= {DEPLOYMENTS, CLASSES, CRDS, REVIEWS}
    there.put(DEPLOYMENTS, operator("ghcr.io/kubeflow/training-v1/training-operator:v1.9.4"))
    there.put(CRDS, crd({"runPolicy": {"properties": {"suspend": {}}}, "nprocPerNode": {"type": "string"}}))
    there.put(
        CLASSES, {"metadata": {"name": "standard", "annotations": DEFAULT}, "provisioner": "rancher.io/local-path"}
    )
    there.put(CLASSES, {"metadata": {"name": "shared"}, "provisioner": "nfs.csi.k8s.io"})
    there.put("nodes", node("gpu", **{"nvidia.com/gpu": "8", "cpu": "64", "memory": "512Gi"}))
    return there


def operator(image: str, available: int = 1) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": image}]}}
    return {
        "metadata": {"name": "training-operator", "namespace": "kubeflow"},
        "spec": {"template": template},
        "status": {"availableReplicas": available},
    }


def crd(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": properties}}}}
    return {"metadata": {"name": "pytorchjobs.kubeflow.org"}, "spec": {"versions": [{"name": "v1", "schema": schema}]}}


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and each line by what it is about."""
    code, out, _ = distrain(capsys, "doctor", "-o", "json")
    return code, {line["about"]: line for line in json.loads(out)}


@needs_helm
def test_a_cluster_in_which_all_is_well(clinic: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = lines(capsys)
    assert code == 0 and {line["state"] for line in found.values()} == {"ok"}, found
    assert "v1.9.4 runs in kubeflow" in found["operator"]["sentence"]
    assert "8 nvidia.com/gpu" in found["gpus"]["sentence"]
    assert "shared" in found["shared storage"]["sentence"]


@needs_helm
@pytest.mark.parametrize(
    ("path", "made", "about", "state", "sentence"),
    [
        (DEPLOYMENTS, operator("training-operator:v1.9.4", available=0), "operator", "fail", "not running"),
        (DEPLOYMENTS, operator("training-operator:v1.8.1"), "operator", "warn", "managedBy of 1.9"),
        (CRDS, crd({"runPolicy": {"properties": {"backoffLimit": {}}}}), "operator", "fail", "runPolicy.suspend"),
        (
            CLASSES,
            {"metadata": {"name": "standard"}, "provisioner": "x"},
            "storage",
            "warn",
            "no default storage class",
        ),
        (
            CLASSES,
            {"metadata": {"name": "standard", "annotations": DEFAULT}, "provisioner": "kubernetes.io/no-provisioner"},
            "storage",
            "warn",
            "the default storage class standard makes no volumes",
        ),
        (CLASSES, {"metadata": {"name": "shared"}, "provisioner": "x"}, "shared storage", "warn", "ReadWriteMany"),
    ],
    ids=["operator down", "operator 1.8", "operator 1.6", "no default class", "volumes by hand", "no shared class"],
)
def test_what_is_wrong_is_said_with_its_mend(
    clinic: HelmCluster,
    capsys: pytest.CaptureFixture[str],
    path: str,
    made: dict[str, Any],
    about: str,
    state: str,
    sentence: str,
) -> None:
    clinic.objects[path] = [old for old in clinic.objects[path] if old["metadata"]["name"] != made["metadata"]["name"]]
    clinic.put(path, made)
    code, found = lines(capsys)
    assert (found[about]["state"], code) == (state, int(state == "fail"))
    assert sentence in found[about]["sentence"] and found[about]["mend"]


@needs_helm
def test_what_is_not_permitted_is_said(clinic: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    clinic.inject(403, "/nodes", times=9, message="nodes is forbidden")
    clinic.allowed = lambda verb, resource: verb != "create" or resource != "pytorchjobs"
    code, found = lines(capsys)
    assert found["gpus"]["state"] == "warn" and "not looked at" in found["gpus"]["sentence"]
    assert found["may view"]["state"] == "ok"
    assert found["may submit"]["sentence"] == "not permitted: create pytorchjobs" and code == 0


@needs_helm
def test_a_cluster_that_does_not_answer(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    there.close()
    code, found = lines(capsys)
    assert code == 1 and list(found) == ["helm", "cluster"] and "does not answer" in found["cluster"]["sentence"]


def test_without_helm_the_doctor_says_where_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, found = lines(capsys)
    assert code == 1 and "there is no helm on PATH" in found["helm"]["sentence"] and "helm.sh" in found["helm"]["mend"]
    assert "no kubeconfig" in found["cluster"]["sentence"]
    code, _, err = distrain(capsys, "render")
    assert code == 70 and err.count("\n") == 1 and "there is no helm on PATH; install it" in err


def test_helm_that_is_too_old_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "helm"
    old.write_text("#!/bin/sh\necho v3.9.4+gdbc6d8e\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    code, _, err = distrain(capsys, "render")
    assert code == 70 and "is Helm 3.9; install 3.13 or later" in err


@needs_helm
def test_no_secret_is_in_the_dump(
    clinic: HelmCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "a-password-of-this-machine"
    monkeypatch.setenv("WANDB_API_KEY", own)
    clinic.tokens.add("my-own-bearer-token")
    monkeypatch.setenv("KUBECONFIG", str(clinic.kubeconfig(tmp_path, token="my-own-bearer-token")))
    clinic.put("secrets", {"kind": "Secret", "metadata": {"name": "hf"}, "data": {"token": TOKEN}})
    entry = {"name": "MY_PASSWORD", "value": "plain-text-password"}
    spec = {"containers": [{"name": "pytorch", "env": [entry, {"name": "URL", "value": "https://u:pass-word@host"}]}]}
    clinic.put("pods", {"kind": "Pod", "metadata": {"name": "run1-master-0"}, "spec": spec})
    clinic.log("run1-master-0", f"using {TOKEN}", f"WANDB_API_KEY={own}", "my-own-bearer-token", "step 3", end=True)
    target = tmp_path / "dump.tar.gz"
    _, out, err = distrain(capsys, "doctor", "--debug-dump", str(target))
    with tarfile.open(target) as bundle:
        files = {m.name: bundle.extractfile(m).read().decode() for m in bundle.getmembers()}  # type: ignore[union-attr]
    everything = "\n".join(files.values()) + out + err
    for secret in (TOKEN, own, "my-own-bearer-token", "plain-text-password", "pass-word"):
        assert secret not in everything
    log = files["distrain-dump/logs/run1-master-0.log"]
    assert "step 3" in log and log.count(HIDDEN) == 3
    assert "secrets" not in "".join(files)
    assert not [path for _, path in clinic.requests if "/secrets" in path]


def test_what_is_redacted() -> None:
    assert redacted({"kind": "Secret", "metadata": {"name": "a"}, "data": {"x": "eA=="}}) == {
        "kind": "Secret",
        "metadata": {"name": "a"},
    }
    assert redacted({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}})["valueFrom"]
    assert redacted({"metadata": {"managedFields": [1], "name": "a"}}) == {"metadata": {"name": "a"}}
    assert (
        redacted_text("tokens_per_second: 1834.5, batch.tokens=16384")
        == "tokens_per_second: 1834.5, batch.tokens=16384"
    )
    assert "abcdefgh" not in redacted_text('{"password": "abcdefgh"}')


def test_kueues_integration_is_read_from_its_configuration() -> None:
    text = 'integrations:\n  frameworks:\n  - "batch/job"\n#  - "kubeflow.org/pytorchjob"\n'
    assert enabled(text, "batch/job") and not enabled(text, "kubeflow.org/pytorchjob")
