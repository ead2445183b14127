"""What the chart makes of a cluster that holds something already: claims that were kept or named, or the run."""

from typing import Any

import pytest
import yaml

from api import holding
from rendering import CHART, Document, document, helm, needs_helm

pytestmark = needs_helm


def claim(name: str, mode: str, storage_class: str = "standard", size: str = "50Gi") -> Document:
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}, "storageClassName": storage_class}
    return {"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def install(settings: str, *objects: Document) -> tuple[list[Document], str]:
    """Helm's answer where the cluster holds these objects, as code, manifests and words."""
    with holding(*objects) as address:
        cluster = ("--dry-run=server", "--kube-apiserver", address)
        done = helm("template", "run1", str(CHART), "-n", "team", *cluster, "--set", settings)
    documents = [found for found in yaml.safe_load_all(done.stdout) if found] if done.returncode == 0 else []
    return documents, done.stderr


def claim_of(settings: str, *objects: Document) -> Any:
    documents, words = install(settings, *objects)
    assert documents, words
    return next(found["spec"] for found in documents if found["kind"] == "PersistentVolumeClaim")


@pytest.mark.parametrize("settings", ["gpus=16", "gpus=8", "gpus=0"])
def test_a_claim_that_was_kept_serves_again_as_it_is(settings: str) -> None:
    spec = claim_of(settings, claim("run1-checkpoint", "ReadWriteMany"))
    assert spec == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}


@pytest.mark.parametrize(
    ("kept", "wanted", "size"),
    [
        ("200Gi", "50Gi", "200Gi"),
        ("50Gi", "200Gi", "200Gi"),
        ("1536Mi", "1Gi", "1536Mi"),
        ("53687091200", "50Gi", "50Gi"),
        ("100G", "0.1Ti", "0.1Ti"),
    ],
)
def test_a_claim_that_was_kept_grows_and_does_not_shrink(kept: str, wanted: str, size: str) -> None:
    found = claim_of(f"persistence.size={wanted}", claim("run1-checkpoint", "ReadWriteOnce", size=kept))
    assert found["resources"]["requests"]["storage"] == size


def test_a_new_claim_is_made_as_without_a_cluster() -> None:
    assert claim_of("gpus=16") == document("PersistentVolumeClaim", "gpus=16")["spec"]


REFUSED = [
    # settings, what the cluster holds, what the message must hold
    (
        "gpus=16",
        claim("run1-checkpoint", "ReadWriteOnce"),
        "the claim run1-checkpoint already exists with ReadWriteOnce, but the run has 2 nodes and all of them write",
    ),
    (
        "persistence.accessMode=ReadWriteOncePod",
        claim("run1-checkpoint", "ReadWriteOnce"),
        "persistence.accessMode is ReadWriteOncePod, but the claim run1-checkpoint already exists with",
    ),
    (
        "persistence.storageClass=nfs",
        claim("run1-checkpoint", "ReadWriteOnce"),
        "but the claim run1-checkpoint already exists with standard; remove the value, install under "
        "another name, or delete that claim and everything on it (kubectl -n team delete pvc run1-checkpoint)",
    ),
    (
        "gpus=16,persistence.existingClaim=runs",
        claim("runs", "ReadWriteOnce"),
        "persistence.existingClaim is runs, a claim with ReadWriteOnce, but the run has 2 nodes and all of them write",
    ),
    (
        "gpus=16,cache.existingClaim=models",
        claim("models", "ReadWriteOnce"),
        "cache.existingClaim is models, a claim with ReadWriteOnce, but the run has 2 nodes",
    ),
]


@pytest.mark.parametrize(("settings", "found", "sentence"), REFUSED, ids=[settings for settings, _, _ in REFUSED])
def test_a_claim_that_cannot_serve_is_refused(settings: str, found: Document, sentence: str) -> None:
    documents, words = install(settings, found)
    assert not documents
    assert sentence in words


def test_claims_that_all_nodes_can_write_are_taken() -> None:
    shared = (claim("runs", "ReadWriteMany"), claim("models", "ReadWriteMany"))
    assert install("gpus=16,persistence.existingClaim=runs,cache.existingClaim=models", *shared)[0]
    assert install("gpus=8,persistence.existingClaim=runs", claim("runs", "ReadWriteOnce"))[0]


def test_an_upgrade_that_changes_nothing_is_taken_and_another_is_refused() -> None:
    installed = document("ConfigMap", "trainer.seed=7")
    assert install("trainer.seed=7", installed)[0]
    documents, words = install("trainer.seed=8", installed)
    assert not documents
    assert "run1 was installed with other values (trainer.seed was 7 and would be 8)" in words
    assert "helm uninstall run1 -n team and install again" in words
