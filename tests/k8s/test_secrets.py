"""No secret is ever printed or written: a known token goes through every command, from wherever a cluster has it."""

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from distrain_k8s.commands import COMMANDS
from helm_cluster import HelmCluster, distrain, needs_helm
from made import ended, event, pod, pytorchjob

pytestmark = needs_helm
TOKEN = "hf_knownTokenThatMustNotBeShown0123456789"
JOBS = "kubeflow.org/v1/pytorchjobs"
SMALL = ("--set", "image.repository=registry.local/distrain")
SECRET = ("--set", "secrets.HF_TOKEN.name=hf,secrets.HF_TOKEN.key=token")
RUN = {
    "settings.json": json.dumps({"settings": {"seed": 1}}),
    "metrics.jsonl": '{"step": 1, "loss": 2.5}\n',
    "training_info.json": '{"status": "finished"}',
    "report.html": "<html>",
    "logs/node-0.attempt-1.log": f"Authorization: Bearer {TOKEN}\n",
}


@pytest.fixture
def leaky(there: HelmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HelmCluster:
    """The token is in a Secret, in this machine's environment, in the pods and the values of somebody else's job, in
    what a library has logged, in events, and in the last words of a container."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    data = {"token": base64.b64encode(TOKEN.encode()).decode()}
    there.put("secrets", {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "hf"}, "data": data})
    there.out = tmp_path / "claim"
    for name, content in RUN.items():
        for run in ("run1", "other"):
            (there.out / run / name).parent.mkdir(parents=True, exist_ok=True)
            (there.out / run / name).write_text(content)
    return there


def leak(there: HelmCluster) -> None:
    """Somebody else's job, which carries the token in its manifest and failed with it on its lips."""
    job, failed = pytorchjob("other", nodes=1, states=("Failed",), helm=False), pod(
        "other", state=ended(65, f"GET https://me:{TOKEN}@host/data: 401"), phase="Failed", helm=False
    )  # fmt: skip
    for spec in (
        job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"],
        failed["spec"],
    ):
        spec["containers"][0]["env"] = [{"name": "HF_TOKEN", "value": TOKEN}]
    there.put(JOBS, job)
    there.put("pods", failed)
    there.put("events", event("Failed", f"pull https://me:{TOKEN}@registry failed", "other"))
    there.log("other-master-0", f"curl -H 'Authorization: Bearer {TOKEN}'", f"HF_TOKEN={TOKEN}", end=True)


def typed() -> list[tuple[str, ...]]:
    """Every command, in an order in which each of them works."""
    return [
        ("render", "--name", "run1", *SMALL, *SECRET),
        ("submit", "--name", "run1", "--dry-run", *SMALL, *SECRET),
        ("submit", "--name", "run1", "-y", *SMALL, *SECRET),
        ("submit", "--name", "run2", "-y", *SMALL, "--set", "secrets.HF_TOKEN.name=hf,secrets.HF_TOKEN.key=other"),
        ("submit", "--name", "run3", "-y", *SMALL, "--set", f"extraEnv.HF_TOKEN={TOKEN}"),
        ("list", "--all", "-o", "json"),
        ("list", "--all", "-o", "wide", "--progress"),
        ("status", "other"),
        ("status", "other", "-o", "yaml"),
        ("status", "run1", "-o", "yaml"),
        ("events", "other"),
        ("events", "other", "-o", "json"),
        ("logs", "other"),
        ("logs", "other", "-f"),
        ("logs", "run1", "--previous"),
        ("wait", "other"),
        ("fetch", "run1", "--to", "here"),
        ("open", "run1"),
        ("compare", "run1", "here", "-o", "yaml"),
        ("doctor", "-o", "yaml"),
        ("doctor", "--debug-dump", "dump.tar.gz"),
        ("completion", "runs"),
        ("stop", "run1"),
        ("resume", "run1", "-y", "--seed", "2"),
        ("delete", "run1", "-y", "--checkpoints"),
    ]


def test_a_known_token_appears_nowhere(leaky: HelmCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert {command[0] for command in typed()} == {command.name for command in COMMANDS}
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for command in typed():
        if command[0] == "list":
            leak(leaky)
        code, out, err = distrain(capsys, *command)
        assert code in (0, 100) or "run2" in command or "run3" in command or command[0] == "doctor", (command, err)
        for secret in (TOKEN, base64.b64encode(TOKEN.encode()).decode()):
            assert secret not in out + err, command
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path not in there]
    assert {path.name for path in written} >= {"report.html", "dump.tar.gz", "run1-compared.html"}
    for path in written:
        assert TOKEN not in "".join(texts(path)), path


def texts(path: Path) -> list[str]:
    """What is in a file, or in the files of a bundle."""
    if path.suffix != ".gz":
        return [path.read_text()]
    with tarfile.open(path) as bundle:
        found: list[Any] = [bundle.extractfile(member) for member in bundle.getmembers()]
        return [io.TextIOWrapper(file).read() for file in found]
