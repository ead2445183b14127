"""Runs contenders, each a process of its own, and finds out when each of their steps ended."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

HERE = Path(__file__).parent
SECONDS_BETWEEN_LOOKS = 0.05
"""How often distrain's metrics are looked at, and so how exactly it is known when a line came."""

Lines = list[tuple[float, dict[str, Any]]]
"""Lines of metrics.jsonl, each with the second in which it came."""


@dataclass(frozen=True)
class Speed:
    """What some steps were like.

    tokens_per_second: real ones, padding left out. padding: fraction of all tokens. samples: a step.
    """

    tokens_per_second: float
    padding: float
    samples: float


@dataclass
class Steps:
    """The optimizer steps of a run, in lists of equal length.

    ended: in seconds, by any one clock. samples, tokens, padded_tokens: over all processes; `tokens` are real ones.
    """

    ended: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    padded_tokens: list[int] = field(default_factory=list)

    def add(self, ended: float, samples: int, tokens: int, padded_tokens: int) -> None:
        """Adds the next step."""
        self.ended.append(ended)
        self.samples.append(samples)
        self.tokens.append(tokens)
        self.padded_tokens.append(padded_tokens)

    def write(self, path: Path) -> None:
        """Writes the steps as JSON."""
        path.write_text(json.dumps(vars(self)))

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """The steps of a run of which each process wrote its share."""
        shares = [json.loads(path.read_text()) for path in paths]
        counts = {
            name: [sum(share) for share in zip(*(share[name] for share in shares), strict=True)]
            for name in ("samples", "tokens", "padded_tokens")
        }
        return cls(shares[0]["ended"], **counts)

    @classmethod
    def of_distrain(cls, lines: Lines) -> Self:
        """The steps among the lines of a run."""
        steps = cls()
        for ended, line in lines:
            if "step_seconds" in line:
                padded_tokens = round(line["tokens"] / (1 - line["padding_fraction"]))
                steps.add(ended, line["samples"], line["tokens"], padded_tokens)
        return steps

    def speed(self, warm_up: int) -> Speed:
        """Of all but the first `warm_up` steps, with everything that happens between them."""
        seconds = self.ended[-1] - self.ended[warm_up - 1]
        tokens, padded_tokens = sum(self.tokens[warm_up:]), sum(self.padded_tokens[warm_up:])
        samples = sum(self.samples[warm_up:]) / (len(self.samples) - warm_up)
        return Speed(tokens / seconds, 1 - tokens / padded_tokens, samples)


def processor_seconds() -> float:
    """Seconds that all runs so far have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """Makes the folder of a run and writes distrain's settings there."""
    folder.mkdir(parents=True)
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings | {"output_dir": str(folder / "out")}))
    return file


def run_distrain(settings: Path, processes: int, cores: int | None = None) -> Lines:
    """Runs `distrain train`. cores: as many are used, None for all."""
    metrics = settings.parent / "out" / "metrics.jsonl"
    command = ["-m", "distrain_k8s.cli", "train", str(settings), "--processes", str(processes)]
    lines: Lines = []
    read = 0
    with started(command, settings.parent / "log", cores) as process:
        running = True
        while running:
            running = process.poll() is None
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.perf_counter()
            if metrics.exists() and metrics.stat().st_size > read:
                with metrics.open("rb") as file:
                    file.seek(read)
                    new = file.read().rpartition(b"\n")[0]
                lines += [(now, json.loads(line)) for line in new.splitlines()]
                read += len(new) + 1 if new else 0
    return lines


def run_program(
    program: str, arguments: Sequence[str], log: Path, processes: int = 1, cores: int | None = None
) -> None:
    """Runs a program of this folder, under torchrun if it is to be several processes. cores: as in `run_distrain`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with started([*launcher, str(HERE / program), *arguments], log, cores):
        pass


@contextmanager
def started(command: Sequence[str], log: Path, cores: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Python running a command without GPUs, waited for at the end; RuntimeError where it ends badly."""

    def restrict() -> None:
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | ({"OMP_NUM_THREADS": "1"} if cores is not None else {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=restrict
        )
        try:
            yield process
            if process.wait() != 0:
                said = log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"`python {' '.join(command)}` ended with {process.returncode}:\n{said}")
        finally:
            process.terminate()
            process.wait()
