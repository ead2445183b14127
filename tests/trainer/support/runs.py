"""Whole runs in tests: start them, watch them, kill them, and compare what they leave."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import tiny
import warm

COMMAND = [sys.executable, "-m", "distrain_k8s.cli"]
NO_PROGRESS = 240.0
"""Seconds without a change in the run's folder after which a test fails."""

RunCommand = Callable[..., subprocess.CompletedProcess[str]]
"""The fixture `run_command`: takes the arguments of `distrain`, and `stdin`."""

FAILING = "/proc/self/mem"
"""A file whose first byte cannot be read: EIO, as from a network file system that is gone."""


def train(bert: Path, texts: Path, output: Path, processes: int, *more: str) -> list[str]:
    """The arguments of a small run of `distrain train`."""
    return [
        "train",
        *("--model.name", str(bert), "--data.files", str(texts), "--data.evaluation_fraction", "0.15"),
        *("--batch.tokens", "256", "--batch.samples", "null", "--batch.micro_batches", "4"),
        *("--optimizer.learning_rate", "1e-3"),
        *("--processes", str(processes), "--output_dir", str(output), *more),
    ]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model or checkpoint, whatever files they are in."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def digest(folder: Path) -> str:
    """A hash of every weight in a folder."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors(folder).items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs `distrain ARGUMENTS` to its end, and fails unless it exits with 0."""
    done = warm.run(arguments, ".", os.environ, "", timeout=300)
    assert done.returncode == 0, done.stderr
    return done


class Victim:
    """A run in the background that a test kills. printed: a file for what it prints on stdout, None for nowhere."""

    def __init__(
        self,
        arguments: list[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        printed: Path | None = None,
    ):
        self.output = output
        with (printed or Path(os.devnull)).open("w") as stdout:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env=os.environ | dict(environment or {}),
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
            )

    def wait_for(self, what: Callable[[], object]) -> bool:
        """Waits until `what()` holds; False if the run ends before. Fails when the run makes no progress."""
        seen, since = None, time.monotonic()
        while not what():
            if self.process.poll() is not None:
                return False
            now = self._fingerprint()
            if now != seen:
                seen, since = now, time.monotonic()
            assert time.monotonic() - since < NO_PROGRESS, f"no progress in {self.output}"
        return True

    def wait_for_step(self, step: int) -> bool:
        """Waits until this step is done; as `wait_for`."""
        return self.wait_for(lambda: self.step() >= step)

    def _fingerprint(self) -> object:
        path = self.output / "metrics.jsonl"
        return (path.stat().st_size if path.exists() else 0, sorted(p.name for p in self.output.glob("*")))

    def step(self) -> int:
        """The newest step in metrics.jsonl."""
        try:
            lines = (self.output / "metrics.jsonl").read_bytes().splitlines()
        except OSError:
            return 0
        return max((int(line.split(b'"step": ')[1].split(b",")[0]) for line in lines if line.endswith(b"}")), default=0)

    def writing(self) -> list[Path]:
        """Folders of checkpoints that are being written."""
        return [path for path in self.output.glob("tmp.[0-9]*") if not (path / "manifest.json").exists()]

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def end(run: Victim, code: int = 0) -> str:
    """What a run said until its end, which has this exit code."""
    said: str = run.process.communicate(timeout=300)[1]
    assert run.process.returncode == code, said
    assert "Traceback" not in said
    return said


def told(said: str) -> list[str]:
    """The sentences of a run to whoever started it; but not that a process is slow, as it may be on a busy machine."""
    lines = [line for line in said.splitlines() if line.startswith("distrain: ")]
    return [line for line in lines if "as slowly as the median" not in line]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """Step -> training loss; fails if a step appears twice."""
    lines = [line for line in metrics(folder) if "loss" in line]
    found = {line["step"]: line["loss"] for line in lines}
    assert len(found) == len(lines), "a step appears twice in metrics.jsonl"
    return found


def write_texts(path: Path, rows: int, seed: int = 0) -> Path:
    """Writes labelled texts as JSON lines: 3 to 100 words, each text with two words that give its label away."""
    draw = random.Random(seed)
    signs = {"animals": "cat", "films": "story", "numbers": "7"}
    lines = {"animals": tiny.LINES[:2], "films": tiny.LINES[2:5], "numbers": tiny.LINES[5:]}
    with path.open("w") as file:
        for _ in range(rows):
            label = draw.choice(sorted(signs))
            filling = draw.choices(" ".join(lines[label]).split(), k=min(int(draw.lognormvariate(2.5, 0.8)) + 1, 98))
            text = " ".join([signs[label]] * 2 + filling)
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path
