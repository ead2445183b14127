"""Submitting with the real Helm: a run is made whole or not at all, and what would fail is said before."""

import io
import json
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from helm_cluster import HelmCluster, distrain, needs_helm, node

pytestmark = needs_helm
JOBS = "kubeflow.org/v1/pytorchjobs"
SMALL = ("--set", "image.repository=registry.local/distrain")


def test_a_run_is_submitted_as_a_helm_release(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = distrain(capsys, "submit", "--name", "run1", "-y", *SMALL)
    assert (code, out) == (0, "run1\n"), err
    assert there.everything() == {
        "pytorchjobs/run1",
        "configmaps/run1-settings",
        "persistentvolumeclaims/run1-checkpoint",
        "networkpolicies/run1",
        "secrets/sh.helm.release.v1.run1.v1",
    }
    # 3 checkpoints of 12 bytes per parameter, final/ and the best of 4: what the trainer says when it starts.
    assert "1 with no GPU, 1 process" in err and "up to 999.4 MB on claim run1-checkpoint of 53.7 GB" in err
    assert "distrain status run1" in err


def test_a_run_without_a_name_is_called_after_its_file(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "Reviews_2.yaml"
    file.write_text(
        "model: {name: sample}\ndata: {name: sample}\noutput_dir: out/reviews\noptimizer: {learning_rate: 5e-5}\n"
    )
    code, out, err = distrain(capsys, "submit", str(file), "-y", *SMALL)
    assert code == 0, err
    name = out.strip()
    assert name.startswith("reviews-2-") and there.names(JOBS) == {name}
    settings = next(c for c in there.objects["configmaps"] if c["metadata"]["name"] == f"{name}-settings")["data"]
    assert settings["DISTRAIN_OPTIMIZER__LEARNING_RATE"] == "5e-5"
    assert settings["DISTRAIN_OUTPUT_DIR"] == f"/out/{name}"


def test_the_same_name_twice_is_refused(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert distrain(capsys, "submit", "--name", "run1", "-y", *SMALL)[0] == 0
    before = json.dumps(there.objects, sort_keys=True)
    code, _, err = distrain(capsys, "submit", "--name", "run1", "-y", *SMALL)
    assert code != 0 and "there is a run run1" in err and "`distrain resume run1` continues it" in err
    assert json.dumps(there.objects, sort_keys=True) == before


@pytest.mark.parametrize(
    "plural",
    [
        "pytorchjobs",
        *(
            pytest.param(plural, marks=pytest.mark.matrix)
            for plural in ("networkpolicies", "configmaps", "persistentvolumeclaims")
        ),
    ],
)
def test_what_fails_in_the_middle_leaves_nothing(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], plural: str
) -> None:
    break_helm(there, plural)
    code, out, err = distrain(capsys, "submit", "--name", "run1", "-y", *SMALL)
    assert code != 0 and out == ""
    assert "run1 was not submitted, and nothing is left of it" in err
    assert there.everything() == set()


def break_helm(there: HelmCluster, plural: str) -> None:
    """Breaks the connection whenever Helm (not our dry run) makes an object of this kind: 3 posts, 4 applies."""
    for path in (f"{plural}?fieldManager", f"{plural}/run1"):
        there.inject("reset", path, times=99, methods=("POST",))


def test_what_cannot_be_removed_is_named(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    break_helm(there, "pytorchjobs")
    there.inject(403, "networkpolicies/run1", times=99, methods=("DELETE",), message="no")
    code, out, err = distrain(capsys, "submit", "--name", "run1", "-y", *SMALL)
    assert code != 0 and out == ""
    assert "run1 is half made" in err and "networkpolicy/run1" in err
    assert "remove it with: distrain delete run1 -n team" in err


REFUSED = [
    (("--set", "gpus=12"), "set gpus to 8 or 16"),
    (("--name", "Run_1"), "Run_1 is not a valid name for a run; start with a letter and use lower-case letters"),
    (
        ("--set", "trainer.batch.tokns=3"),
        "trainer.batch.tokns is not a value of the chart; did you mean trainer.batch.tokens?",
    ),
    (("--batch.tokens", "64"), "raise batch.tokens to at least 128"),
    (("--set", "trainer.data.files={reviews.csv}"), "a path of this machine"),
    (("--set", "persistence.size=1Mi"), "set persistence.size to at least"),
    (("--set", "persistence.existingClaim=gone"), "there is no claim gone in team"),
    (("--set", "secrets.HF_TOKEN.name=hf,secrets.HF_TOKEN.key=token"), "there is no Secret hf in team"),
    (("--set", "kueue.queue=team-a"), "kueue.queue is team-a, but Kueue is not installed"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_cannot_work_is_refused_and_nothing_is_made(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    named = () if "--name" in options else ("--name", "run1")
    code, out, err = distrain(capsys, "submit", *named, "-y", *SMALL, *options)
    assert code != 0 and out == "" and sentence in err, err
    assert err.strip().count("\n") == 0, "one sentence"
    assert there.everything() == set()
    assert not [path for method, path in there.requests if method == "POST" and "dryRun" not in path]


def test_a_quota_that_is_too_small_is_refused(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    status = {"hard": {"requests.cpu": "4"}, "used": {"requests.cpu": "3"}}
    there.put("resourcequotas", {"metadata": {"name": "small"}, "spec": {}, "status": status})
    code, _, err = distrain(capsys, "submit", "-y", "--set", "gpus=0,nodes=3", *SMALL)
    assert code != 0 and "the quota small of the namespace team has 1 of requests.cpu left" in err and "1.5" in err


def test_missing_gpus_are_said_and_not_refused(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """An autoscaler may bring the node."""
    code, _, err = distrain(capsys, "submit", "--name", "run1", "-y", "--set", "gpus=8", *SMALL)
    assert code == 0 and "warning: no node of the cluster has nvidia.com/gpu" in err
    gpu = node(
        "gpu",
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        **{"nvidia.com/gpu": "8", "cpu": "64", "memory": "512Gi"},
    )
    there.put("nodes", gpu)
    _, _, err = distrain(capsys, "submit", "--name", "run2", "-y", "--set", "gpus=8", *SMALL)
    assert "the run needs room for a pod with 8 nvidia.com/gpu, " in err and "the nodes have it for none (" in err
    assert "1 with the taint nvidia.com/gpu:NoSchedule, which tolerations do not name" in err


def test_a_dry_run_prints_manifests_and_makes_nothing(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = distrain(capsys, "submit", "--name", "run1", "--dry-run", *SMALL)
    assert code == 0
    assert {d["kind"] for d in yaml.safe_load_all(out)} == {
        "PyTorchJob",
        "ConfigMap",
        "PersistentVolumeClaim",
        "NetworkPolicy",
    }
    assert there.everything() == set()


def test_nobody_to_ask_is_a_sentence(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, _, err = distrain(capsys, "submit", *SMALL)
    assert code == 64 and "add -y" in err and there.everything() == set()


def test_a_sweep_is_a_group_of_runs(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("--sweep", "optimizer.learning_rate=1e-5,3e-5", "--sweep", "seed=1,2")
    code, out, err = distrain(capsys, "submit", "--name", "lr", "-y", *SMALL, *sweep)
    assert (code, out.split()) == (0, ["lr-1", "lr-2", "lr-3", "lr-4"]), err
    assert "learning_rate=3e-5 seed=2" in err
    assert err.splitlines()[-1] == "next: distrain list --group lr --progress, distrain compare lr"
    assert {job["metadata"]["labels"]["app.kubernetes.io/part-of"] for job in there.objects[JOBS]} == {"lr"}
    data = [found["data"] for found in there.objects["configmaps"]]
    points = [(d["DISTRAIN_OPTIMIZER__LEARNING_RATE"], d["DISTRAIN_SEED"]) for d in data]
    assert sorted(points) == [("1e-5", "1"), ("1e-5", "2"), ("3e-5", "1"), ("3e-5", "2")]


def test_a_sweep_that_set_overrides_is_refused(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = distrain(capsys, "submit", "-y", *SMALL, "--set", "trainer.seed=3", "--sweep", "seed=1,2")
    assert code == 64 and "points of the sweep are the same run" in err and there.everything() == set()


def test_waiting_for_a_submitted_run_exits_as_it_ends(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    for name, end, code in (("good", "Succeeded", 0), ("bad", "Failed", 100)):

        def finish(name: str = name, end: str = end) -> None:
            while name not in there.names(JOBS):
                time.sleep(0.05)
            job = next(job for job in there.objects[JOBS] if job["metadata"]["name"] == name)
            job["status"] = {"conditions": [{"type": end, "status": "True", "message": "seen"}]}

        ending = threading.Thread(target=finish, daemon=True)
        ending.start()
        found, out, err = distrain(capsys, "submit", "--name", name, "-y", "--wait", *SMALL)
        ending.join(10)
        assert (found, out) == (code, f"{name}\n") and f"{name} has {end.lower()}" in err, err
