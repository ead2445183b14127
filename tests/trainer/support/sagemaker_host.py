"""The folder /opt/ml of a training job on SageMaker, as a host finds it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import warm
from distrain_trainer.launch.sagemaker import TrainingJob, job_here
from runs import Victim

ADDED_BY_THE_SDK = {"sagemaker_program": "train.py", "sagemaker_region": "eu-west-1", "_tuning_objective_metric": "f1"}


class Host:
    """The folder /opt/ml of one host. hyperparameters: written as the SDK does, each value as JSON in a text."""

    def __init__(
        self, root: Path, hyperparameters: Mapping[str, Any], hosts: Sequence[str] = ("algo-1",), host: str = "algo-1"
    ):
        self.root = root
        written = {name: json.dumps(value) for name, value in (ADDED_BY_THE_SDK | dict(hyperparameters)).items()}
        self.write("input/config/hyperparameters.json", written)
        about = {"current_host": host, "hosts": list(hosts), "network_interface_name": "lo"}
        self.write("input/config/resourceconfig.json", about)
        (root / "output").mkdir()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(json.dumps(content))

    def channel(self, name: str, *files: Path) -> "Host":
        """Gives the job a channel with these files; a folder is mounted as it is."""
        folder = self.root / "input" / "data" / name
        folder.parent.mkdir(exist_ok=True)
        if files and files[0].is_dir():
            folder.symlink_to(files[0])
            return self
        folder.mkdir()
        for file in files:
            (folder / file.name).write_bytes(file.read_bytes())
        return self

    @property
    def environment(self) -> dict[str, str]:
        return {"SAGEMAKER_BASE_DIR": str(self.root)}

    @property
    def job(self) -> TrainingJob:
        found = job_here(self.environment)
        assert found is not None
        return found

    @property
    def failure(self) -> str | None:
        file = self.root / "output" / "failure"
        return file.read_text() if file.exists() else None

    def start(self, output: Path, **environment: str) -> Victim:
        """Starts the container's program with its one argument, as a process of its own."""
        return Victim(["train"], output, self.environment | environment)

    def finish(self) -> tuple[int, str]:
        """Runs it to its end: its exit code, and what it said."""
        done = warm.run(["train"], self.root, os.environ | self.environment, "", timeout=300)
        return done.returncode, done.stderr
