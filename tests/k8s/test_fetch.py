"""Fetching what a run has written: whole, checked, by a pod that does not stay."""

import random
from pathlib import Path
from typing import Any

import pytest

from distrain_k8s import Client
from distrain_k8s.errors import ClientError
from distrain_k8s.runs.reader import reader_pod
from distrain_k8s.watch.fetch import inside, log_place, wanted
from distrain_k8s.watch.transfer import Bar
from distrain_trainer import bars
from helm_cluster import HelmCluster, distrain, needs_helm

pytestmark = needs_helm
WEIGHTS = random.Random(7).randbytes(300_000)


@pytest.fixture
def run(there: HelmCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    """The folder of a run that has trained."""
    code, _, err = distrain(
        capsys, "submit", "--name", "run1", "-y", "--set", "image.repository=registry.local/distrain"
    )
    assert code == 0, err
    there.out = tmp_path / "claim"
    folder = there.out / "run1"
    for name, content in {
        "final/model.safetensors": WEIGHTS,
        "final/config.json": b"{}",
        "report.html": b"<html>",
        "metrics.jsonl": b'{"step": 1}\n',
        "checkpoint-10/state.json": b"{}",
        "logs/node-0.attempt-1.log": b"first\nlost a peer\n",
        "logs/node-1.attempt-1.log": b"other node\n",
        "logs/node-0.attempt-2.log": b"second\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "model.safetensors").symlink_to("final/model.safetensors")
    return folder


def test_all_but_checkpoints_is_fetched_and_the_pod_goes(
    there: HelmCluster, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    to = tmp_path / "here"
    code, out, err = distrain(capsys, "fetch", "run1", "--to", str(to))
    assert code == 0, err
    names = {str(Path(line).relative_to(to)) for line in out.splitlines()}
    own = {"final/model.safetensors", "final/config.json", "report.html", "metrics.jsonl"}
    assert names == own | {"model.safetensors"}
    assert all((to / name).read_bytes() == (run / name).read_bytes() for name in names)
    assert there.names("pods") == set()


def test_what_is_a_link_there_is_one_here(there: HelmCluster, run: Path, tmp_path: Path) -> None:
    to = tmp_path / "here"
    for _ in range(2):
        with Client() as client:
            files = {file.path: file for file in client.fetch("run1", to)}
    assert (to / "model.safetensors").readlink() == Path("final/model.safetensors")
    assert files["model.safetensors"].sha256 == files["final/model.safetensors"].sha256
    with Client() as client:
        client.fetch("run1", tmp_path / "alone", ["model.safetensors"])
    assert not (tmp_path / "alone/model.safetensors").is_symlink(), "what it links to was not asked for"
    assert (tmp_path / "alone/model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_goes_on_where_it_was(
    there: HelmCluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with Client() as client:
        there.cuts = [100_000, 150_000, 1000]
        files = client.fetch("run1", tmp_path, ["final"])
    assert (tmp_path / "final/model.safetensors").read_bytes() == WEIGHTS
    assert there.cuts == [] and {file.path for file in files} == {"final/model.safetensors", "final/config.json"}


def test_a_file_that_does_not_arrive_leaves_nothing(
    there: HelmCluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    (run / "final" / "config.json").unlink()
    there.cuts = [1000] * 50
    to = tmp_path / "here"
    with Client() as client, pytest.raises(ClientError, match="could not be fetched in 5 tries"):
        client.fetch("run1", to, ["final"])
    assert not [path for path in to.rglob("*") if path.is_file()]
    assert there.names("pods") == set()


def test_ctrl_c_removes_the_pod(there: HelmCluster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distrain_k8s.runs.reader.Reader.save", interrupted)
    with Client() as client, pytest.raises(KeyboardInterrupt):
        client.fetch("run1", tmp_path)
    assert there.names("pods") == set()


def test_what_is_not_there_yet_is_said(there: HelmCluster, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    code, _, err = distrain(capsys, "open", "run1")
    assert code == 102 and "run1 has no report yet: it is written when the run ends" in err
    assert there.names("pods") == set()


def test_earlier_attempts_are_read_from_the_runs_own_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = distrain(capsys, "logs", "run1", "--previous")
    assert code == 0, err
    assert out.splitlines() == [
        "attempt 1 node 0 | first",
        "attempt 1 node 0 | lost a peer",
        "attempt 1 node 1 | other node",
        "attempt 2 node 0 | second",
    ]


def test_the_pod_is_restricted_and_stands_where_the_claim_is(there: HelmCluster, run: Path) -> None:
    job = there.objects["kubeflow.org/v1/pytorchjobs"][0]
    template = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    labels = {"training.kubeflow.org/job-name": "run1"}
    there.put("pods", {"metadata": {"name": "run1-master-0", "labels": labels}, "spec": {"nodeName": "worker"}})
    with Client() as client:
        spec = reader_pod(client.api, template, "run1", "run1-checkpoint")["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not [name for name in container["resources"]["limits"] if "gpu" in name]
    assert container["volumeMounts"] == [{"name": "out", "mountPath": "/out", "readOnly": True}]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms[0]["matchFields"][0]["values"] == ["worker"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../run2/settings.json", "final/../../x"])
def test_a_file_never_leaves_the_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="outside of the run's folder"):
        inside(tmp_path, path)


def test_which_files_are_wanted() -> None:
    assert wanted("final/model.safetensors", ()) and not wanted("checkpoint-10/state.json", ())
    assert wanted("checkpoint-10/state.json", ("checkpoint-10",)) and not wanted("finally.txt", ("final",))
    assert log_place("logs/node-12.attempt-3.log") == (3, 12, "logs/node-12.attempt-3.log")
    assert log_place("final/node-1.attempt-1.log") is None


def test_a_file_that_takes_long_is_told_of_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars, "monotonic", lambda: now[0])
    with Bar() as bar:
        moved = bar.add("final/model.safetensors", 4_000_000)
        for second in range(1, 9):
            now[0] = float(second)
            moved(500_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching final/model.safetensors: 1MB of 4MB, 0:06 left",
        "fetching final/model.safetensors: 3MB of 4MB, 0:02 left",
    ]
