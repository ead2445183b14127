"""Completion, as a real bash does it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distrain_k8s.cli import COMMANDS
from helm_cluster import HelmCluster, distrain


def completed(words: str, tmp_path: Path) -> list[str]:
    """What bash offers behind these words."""
    command = tmp_path / "distrain"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m distrain_k8s.cli "$@"\n')
    command.chmod(0o755)
    line = f"distrain {words}"
    script = f"""
eval "$(distrain completion bash)"
COMP_WORDS=({line}{' ""' if line.endswith(" ") else ""}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _distrain
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_runs(there: HelmCluster, tmp_path: Path) -> None:
    labels = {"app.kubernetes.io/name": "distrain"}
    for name in ("reviews-1", "reviews-2", "other"):
        there.put("kubeflow.org/v1/pytorchjobs", {"metadata": {"name": name, "labels": labels}, "spec": {}})
    assert sorted(completed("st", tmp_path)) == ["status", "stop"]
    assert "--sweep" in completed("submit --sw", tmp_path)
    assert sorted(completed("logs rev", tmp_path)) == ["reviews-1", "reviews-2"]


def test_zsh_gets_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = distrain(capsys, "completion", "zsh")
    assert code == 0 and "bashcompinit" in out and all(command.name in out for command in COMMANDS)
