"""What is kept of a failed test: all of it in its folder, whatever kubectl answers."""

from pathlib import Path

import pytest

from cluster import artifacts


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that kubectl is taken from; nothing is in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(artifacts, "BIN", folder)
    return folder


def kubectl(folder: Path, script: str) -> None:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def kept(tmp_path: Path) -> set[str]:
    """What lies in the folder afterwards; nothing may be anywhere else."""
    before = set(tmp_path.rglob("*"))
    folder = tmp_path / "artifacts"
    artifacts.keep(folder, "team")
    new = {path for path in tmp_path.rglob("*") if path not in before | {folder}}
    assert {path for path in new if path.parent != folder} == set()
    return {path.name for path in new}


def test_the_error_of_a_failed_kubectl_names_no_pods(tmp_path: Path, programs: Path) -> None:
    kubectl(programs, 'echo "error: stat /nowhere/kubeconfig: no such file or directory" >&2; exit 1')
    names = kept(tmp_path)
    assert {"pods.txt", "events.txt", "operator.log"} <= names
    assert not {name for name in names if name.startswith(("error:", "kubeconfig:", "stat"))}
    assert "no such file or directory" in (tmp_path / "artifacts" / "pods.txt").read_text()


def test_a_kubectl_that_is_not_there_is_told_in_each_file(tmp_path: Path, programs: Path) -> None:
    assert not {name for name in kept(tmp_path) if "kubectl" in name}
    assert "kubectl is not there" in (tmp_path / "artifacts" / "pods.txt").read_text()


def test_each_pod_has_its_logs_and_a_warning_is_no_pod(tmp_path: Path, programs: Path) -> None:
    kubectl(programs, 'echo "Warning: v1 is deprecated" >&2; case "$*" in *name) echo pod/run1-master-0;; esac')
    logs = {name for name in kept(tmp_path) if name.endswith(".log") and not name.startswith("distrain-")}
    assert logs == {"operator.log", "run1-master-0.log", "run1-master-0.previous.log"}
