"""What the benchmarks share: data, a contender as a process of its own, medians with their spread, tables."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

HERE = Path(__file__).parent
SECONDS_BETWEEN_LOOKS = 0.01
"""How often a run's metrics are looked at: how exactly we know when a line came."""
LABELS = 12


# Data


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Writes JSON lines {input_ids, label}: random tokens, lengths lognormal (median 70, sigma 0.8, clipped to 8-512).

    Tokens instead of texts, so that every contender has exactly these lengths.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    lengths = np.clip(np.round(generator.lognormal(np.log(70), 0.8, rows)), 8, 512).astype(int)
    labels = generator.integers(LABELS, size=rows)
    with path.open("w") as file:
        for length, label in zip(lengths, labels, strict=True):
            tokens = [101, *generator.integers(1000, 30000, length - 2).tolist(), 102]
            file.write(json.dumps({"input_ids": tokens, "label": f"class {label}"}) + "\n")


def token_rows(settings: Any) -> tuple[Any, Any]:
    """The tokenizer and the token rows that distrain trains on with these settings."""
    from distrain_trainer.data.tokens import prepare
    from distrain_trainer.model import load_config, load_tokenizer, longest_row, resolve

    name, revision = resolve(settings.model)
    tokenizer = load_tokenizer(name, revision)
    max_length = longest_row(settings, load_config(name, revision), tokenizer)
    return tokenizer, prepare(settings, tokenizer, max_length, say=lambda text: None)


# What a contender did


@dataclass
class Steps:
    """The optimizer steps of a run, in lists of equal length.

    ended: seconds by any one clock. samples, tokens, padded_tokens: over all processes; tokens without padding.
    """

    ended: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    padded_tokens: list[int] = field(default_factory=list)

    def add(self, ended: float, samples: int, tokens: int, padded_tokens: int) -> None:
        """Counts one more step."""
        self.ended.append(ended)
        self.samples.append(samples)
        self.tokens.append(tokens)
        self.padded_tokens.append(padded_tokens)

    def write(self, path: Path) -> None:
        """Writes the steps as JSON."""
        path.write_text(json.dumps(vars(self)))

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """The steps that one process wrote, or that each of several wrote of its share."""
        shares = [cls(**json.loads(path.read_text())) for path in paths]

        def summed(name: str) -> list[int]:
            return [sum(counts) for counts in zip(*(getattr(share, name) for share in shares), strict=True)]

        return cls(shares[0].ended, summed("samples"), summed("tokens"), summed("padded_tokens"))

    def speed(self, warm_up: int) -> "Speed":
        """Of the steps after the first `warm_up`, by the clock from the end of one step to the end of the last."""
        seconds = self.ended[-1] - self.ended[warm_up - 1]
        tokens, padded = sum(self.tokens[warm_up:]), sum(self.padded_tokens[warm_up:])
        steps = len(self.ended) - warm_up
        return Speed(tokens / seconds, 1 - tokens / padded, sum(self.samples[warm_up:]) / steps, steps)


@dataclass(frozen=True)
class Speed:
    """tokens_per_second: without padding. padding: fraction of all tokens. samples: a step. steps: measured."""

    tokens_per_second: float
    padding: float
    samples: float
    steps: int


# Running contenders


@contextmanager
def started(command: Sequence[str], log: Path, cores: int | None) -> Iterator[subprocess.Popen]:
    """A Python program running on the CPU, on the first `cores` cores or on all; RuntimeError if it ends badly."""
    threads = {} if cores is None else {"OMP_NUM_THREADS": "1"}
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"} | threads

    def restrict() -> None:
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=restrict
        )
        try:
            yield process
            if process.wait():
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        finally:
            process.terminate()
            process.wait()


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """Writes a settings file for distrain into a new folder of the run."""
    folder.mkdir(parents=True)
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings | {"output_dir": str(folder / "out")}))
    return path


def run_distrain(settings: Path, processes: int, cores: int | None = None) -> list[tuple[float, dict[str, Any]]]:
    """Runs `distrain train`; returns the lines of metrics.jsonl with the second in which each came."""
    metrics = settings.parent / "out" / "metrics.jsonl"
    command = ["-m", "distrain_trainer.cli", "train", str(settings), "--processes", str(processes)]
    lines: list[tuple[float, dict[str, Any]]] = []
    read = 0
    with started(command, settings.parent / "log", cores) as process:
        running = True
        while running:
            running = process.poll() is None
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if not metrics.exists() or metrics.stat().st_size == read:
                continue
            now = time.perf_counter()
            with metrics.open("rb") as file:
                file.seek(read)
                new = file.read().rpartition(b"\n")[0]
            read += len(new) + 1 if new else 0
            lines += [(now, json.loads(line)) for line in new.splitlines()]
    return lines


def distrain_steps(lines: Sequence[tuple[float, dict[str, Any]]]) -> Steps:
    """The steps among the lines of a run."""
    steps = Steps()
    for ended, line in lines:
        if "step_seconds" in line:
            padded = round(line["tokens"] / (1 - line["padding_fraction"]))
            steps.add(ended, line["samples"], line["tokens"], padded)
    return steps


def run_program(program: str, arguments: Sequence[str], log: Path, processes: int = 1, cores: int | None = None) -> None:
    """Runs one of the programs of this folder, under torchrun if it is to be several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with started([*launcher, str(HERE / program), *arguments], log, cores):
        pass


# Telling


def say(text: str) -> None:
    """Tells the person who waits."""
    print(text, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`3.21 (3.10-3.30)`: the median, and the lowest and highest where there are several."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; its first column holds words, the others numbers."""
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def machine() -> str:
    """Processor, cores and versions, in one sentence."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {names[0] if names else platform.machine()}, Python {platform.python_version()}, {packages}."
