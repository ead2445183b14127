"""A run as a user installs it: the chart's release, its claims, and what it left on them."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster import kubectl, shell, storage
from cluster.kubectl import Object
from cluster.namespace import Namespace

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "distrain"
TINY: dict[str, Any] = {
    "data": {"files": ["/data/texts.jsonl"], "max_length": 64, "evaluation_fraction": 0.15},
    "batch": {"tokens": 256, "samples": 16, "micro_batches": 6},
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"max_steps": 12},
}
"""Settings of a small run, for the models and texts that the fixture `inputs` makes; the model is to be named."""
FEW_RESOURCES: dict[str, Any] = {
    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
    "sharedMemory": "256Mi",
    "gracePeriodSeconds": 30,
    # So many threads as on the machine that the losses are compared with, which bit-equal sums depend on.
    "extraEnv": {"OMP_NUM_THREADS": "1"},
}


class Release:
    """A run in a namespace. values: of the chart, over `FEW_RESOURCES`. inputs: mounted at /data."""

    def __init__(self, namespace: Namespace, image: str, inputs: Path, values: Mapping[str, Any], name: str = "run1"):
        self.namespace, self.name = namespace, name
        repository, _, tag = image.rpartition(":")
        self.values = FEW_RESOURCES | {
            "image": {"repository": repository, "tag": tag},
            "dataClaims": [{"claimName": "inputs", "mountPath": "/data"}],
            **values,
        }
        self.folder = namespace.volume(f"{name}-checkpoint") / name
        data = namespace.volume("inputs")
        shutil.copytree(inputs, data, dirs_exist_ok=True)
        for path in (data, *data.rglob("*")):
            os.chown(path, storage.OWNER, storage.OWNER)
        namespace.apply(claim("inputs"))

    @property
    def kind(self) -> str:
        return "trainjob" if self.values.get("backend") == "trainjob" else "pytorchjob"

    def install(self, command: str = "install", check: bool = True) -> str:
        """What Helm said, on stdout and stderr."""
        done = self.namespace.helm(command, self.name, CHART, "-f", self.file(), check=check)
        return done.stdout + done.stderr

    def manifests(self) -> list[Object]:
        """What Helm would install, rendered without a cluster."""
        done = self.namespace.helm("template", self.name, CHART, "-f", self.file())
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def ended(self, deadline: float = 600) -> str:
        """How the job ended, waited for while metrics or pods move."""
        return self.namespace.finished(self.kind, self.name, deadline, stall=150, progress=self._progress)

    def succeeded(self) -> None:
        """Waits for a good end."""
        ending = self.ended()
        assert ending in ("Succeeded", "Complete"), f"{ending}: {self.last_words()}"

    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def losses(self) -> dict[int, float]:
        return losses(self.folder)

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "training_info.json").read_text())
        return found

    def pods(self) -> list[Object]:
        return self.namespace.pods(f"app.kubernetes.io/instance={self.name}")

    def last_words(self) -> dict[str, tuple[int, str]]:
        """Pod name -> exit code and termination message of its trainer, where it has ended."""
        words = {}
        for pod in self.pods():
            for container in pod["status"].get("containerStatuses", []):
                for state in (container.get("state", {}), container.get("lastState", {})):
                    if ended := state.get("terminated"):
                        words[pod["metadata"]["name"]] = (ended["exitCode"], ended.get("message", ""))
        return words

    def _progress(self) -> object:
        path = self.folder / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def file(self) -> Path:
        file = kubectl.KUBECONFIG.with_name(f"values-{self.namespace.name}-{self.name}.yaml")
        file.write_text(yaml.safe_dump(self.values))
        return file


def claim(name: str) -> Object:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def losses(folder: Path) -> dict[int, float]:
    """Step -> training loss."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def digest(folder: Path) -> str:
    """A hash of a run's final weights."""
    found = hashlib.sha256()
    for file in sorted((folder / "final").glob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()


def train_here(output: Path, inputs: Path, settings: Mapping[str, Any], processes: int) -> dict[int, float]:
    """The losses of the same run on this machine."""
    text = json.dumps(settings).replace('"/data/', f'"{inputs}/')
    file = output.with_suffix(".json")
    file.write_text(text)
    command = (sys.executable, "-m", "distrain_k8s.cli", "train", file, "--processes", str(processes))
    environment = {"DISTRAIN_OUTPUT_DIR": str(output), "DISTRAIN_DATA__CACHE": str(output.parent / "cache")}
    shell.run(*command, env=environment | {"OMP_NUM_THREADS": "1"}, timeout=300)
    return losses(output)
