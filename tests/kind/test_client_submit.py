"""The client's acting side on the cluster: the tutorial as a person types it, and a run that stops and goes on."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import addons, kubectl
from cluster.namespace import Namespace
from cluster.shell import BIN
from distrain_k8s import Client
from release import ROOT, TINY, Release

TUTORIAL = ROOT / "docs" / "tutorial-client.md"
OWN_DATA = ROOT / "docs" / "own-data.md"


def typed(namespace: Namespace, folder: Path, command: str, check: bool = True) -> str:
    """What a command of the tutorial says, on stdout and stderr."""
    words = shlex.split(command)
    assert words[0] == "distrain", command
    environment = os.environ | {
        "KUBECONFIG": str(kubectl.KUBECONFIG),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    line = [sys.executable, "-m", "distrain_k8s.cli", *words[1:], "-n", namespace.name]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=folder, env=environment)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_tutorial(namespace: Namespace, image: str, tmp_path: Path) -> None:
    repository, _, tag = image.rpartition(":")
    namespace.volume("first-checkpoint")
    blocks = re.findall(r"^```\n(.+?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 9
    said: dict[str, str] = {}
    for command in commands:
        command = command.replace("REGISTRY/distrain", repository).replace("image.tag=TAG", f"image.tag={tag}")
        word = command.split()[1]
        if word == "status":
            with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client:
                namespace.wait("a cause is seen", lambda: client.status("first").cause, deadline=120)
        said[word] = typed(namespace, tmp_path, command, check=word != "doctor")
    assert "operator" in said["doctor"]
    assert "Pending" in said["status"] and "image" in said["status"] and "distrain resume first" in said["status"]
    assert f":typo -> {image}" in said["resume"]
    assert "step" in said["logs"]
    assert "Succeeded" in said["list"]
    assert (tmp_path / "first" / "report.html").exists() and list((tmp_path / "first" / "final").glob("*.safetensors"))
    lines = [json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 20
    assert not namespace.get("pytorchjob", "first")
    assert not [pod for pod in namespace.pods() if "reader" in pod["metadata"]["name"]]


def test_own_data_on_a_claim(namespace: Namespace, image: str, tmp_path: Path) -> None:
    """What the page says, as it stands there, where Pod Security is `restricted`."""
    namespace.enforce("restricted")
    for claim in ("corpus", "reviews-checkpoint"):
        namespace.volume(claim)
    rows = [f"it {word} well, {number}" for number in range(60) for word in ("works", "fails")]
    lines = [f'2026-03-01,"{text}",{"good" if "works" in text else "bad"}' for text in rows]
    (tmp_path / "reviews.csv").write_text("\n".join(["date,review,stars", *lines]) + "\n")
    (tmp_path / "reviews.yaml").write_text(
        "task: sequence-classification\nmodel: {name: sample}\nschedule: {max_steps: 4}\n"
        "data: {files: reviews.csv, text_column: review, label_column: stars}\n"
    )
    page = OWN_DATA.read_text().partition("## On a cluster")[2]
    fill, submit = re.findall(r"^```bash\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    repository, _, tag = image.rpartition(":")
    script = (fill + submit).replace("REGISTRY/distrain", repository)
    script = script.replace(f"{repository}:TAG", image).replace("image.tag=TAG", f"image.tag={tag}")
    script = script.replace("submit reviews.yaml", "submit reviews.yaml --name reviews -y")
    (tmp_path / "config").write_text(kubectl.KUBECONFIG.read_text())  # since its namespace changes
    (tmp_path / "distrain").write_text(f'#!/bin/sh\nexec {sys.executable} -m distrain_k8s.cli "$@"\n')
    (tmp_path / "distrain").chmod(0o755)
    script = f"set -e\nkubectl config set-context --current --namespace {namespace.name}\n{script}"
    environment = os.environ | {
        "KUBECONFIG": str(tmp_path / "config"),
        "PATH": os.pathsep.join((str(tmp_path), str(BIN), os.environ["PATH"])),
    }
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert namespace.finished("pytorchjob", "reviews") == "Succeeded"
    assert not [pod for pod in namespace.pods() if pod["metadata"]["name"] == "fill-corpus"]


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_a_run_stops_with_a_checkpoint_and_goes_on_from_it(
    namespace: Namespace, image: str, inputs: Path, backend: str
) -> None:
    if backend == "trainjob":
        addons.trainer()
    settings = TINY | {"model": {"name": "/data/bert"}, "schedule": {"kind": "constant", "max_steps": 400}}
    run = Release(
        namespace, image, inputs, {"backend": backend, "trainer": settings, "persistence": {"keepClaim": False}}
    )
    run.install()
    with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as client:
        namespace.wait("it trains", lambda: (run.folder / "metrics.jsonl").exists() or None, deadline=180)
        client.stop("run1", wait=True)
        assert list(run.folder.glob("checkpoint-*"))
        client.resume("run1")
        run.succeeded()
        resumed = [line["step"] for line in run.metrics() if line.get("event") == "resume"]
        assert len(resumed) == 1 and resumed[0] > 0
        before = namespace.get("pvc", "run1-checkpoint")["metadata"]["uid"]
        client.resume("run1")
        run.succeeded()
        assert namespace.get("pvc", "run1-checkpoint")["metadata"]["uid"] == before
