"""Random faults on two nodes, by seed (`make fault-test MINUTES=30 SEED=1`): whatever dies, each run ends the same.

Prints a line a run: its faults, attempts, and seconds.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from distrain_trainer.storage.attempts import read_attempts
from runs import Victim, digest, finish, losses, train
from two_nodes import Cluster

MINUTES = float(os.environ.get("MINUTES", 5))
SEED = int(os.environ.get("SEED", 1))
STEPS = ("--schedule.max_steps", "60", "--checkpoint.every_steps", "5", "--checkpoint.max_restarts", "1000")
LAST = 58
"""Step of the last fault at most."""
MOST = 6
"""Faults of a run at most."""
BEFORE = 12.0
"""Seconds within which a fault comes that hits before the first step."""
LEAVES = (0, 143, -signal.SIGTERM, -signal.SIGKILL)
"""How a node may leave that was hit by a fault: finished, stopped, or ended by the signal itself."""


def kill_node(node: Victim) -> None:
    node.process.kill()


def kill_worker(node: Victim) -> None:
    with suppress(OSError, IndexError):
        os.kill(node.workers()[0], signal.SIGKILL)


def ask_node(node: Victim) -> None:
    node.process.send_signal(signal.SIGTERM)


def pause_worker(node: Victim) -> None:
    with suppress(OSError, IndexError):
        worker = node.workers()[0]
        os.kill(worker, signal.SIGSTOP)
        time.sleep(3)
        os.kill(worker, signal.SIGCONT)


def pause_node(node: Victim) -> None:
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(12)  # longer than a node may be silent
    node.process.send_signal(signal.SIGCONT)


FAULTS: tuple[Callable[[Victim], None], ...] = (kill_node, kill_worker, ask_node, pause_worker, pause_node)


def test_every_run_ends_the_same(bert: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    finish(train(bert, texts, whole, 2, *STEPS))
    expected, curve = digest(whole / "final"), losses(whole)
    until, runs, hits = time.monotonic() + MINUTES * 60, 0, 0
    while time.monotonic() < until:
        seed = SEED + runs
        faults, attempts, seconds = one_run(random.Random(seed), bert, texts, tmp_path / f"run-{seed}", expected, curve)
        runs, hits = runs + 1, hits + len(faults)
        with capsys.disabled():
            print(f"seed {seed}: {attempts} attempts, {seconds:.0f} s; {', '.join(faults) or 'no fault'}", flush=True)
    with capsys.disabled():
        print(f"{runs} runs, {hits} faults: all ended 0 with the same weights and losses")


def one_run(
    draw: random.Random, bert: Path, texts: Path, output: Path, expected: str, curve: dict[int, float]
) -> tuple[list[str], int, float]:
    """A run and its faults: their names, the attempts that it took, and seconds."""
    cluster = Cluster(bert, texts, output, *STEPS, "--run_id", output.name)
    nodes, began = [cluster.node(0), cluster.node(1)], time.monotonic()
    done: list[str] = []
    codes: list[int | None] = [None, None]
    moments = sorted(draw.randint(-10, LAST) for _ in range(draw.randint(1, MOST)))
    delay = time.monotonic() + draw.uniform(0, BEFORE)
    while any(code != 0 for code in codes):
        assert time.monotonic() - began < 600, f"no end after {done}"
        for index, node in enumerate(nodes):
            if codes[index] == 0 or node.process.poll() is None:
                continue
            said = node.process.communicate()[1]
            codes[index] = node.process.returncode
            assert node.process.returncode in LEAVES, (done, node.process.returncode, said)
            assert "Traceback" not in said, (done, said)
            if node.process.returncode != 0:
                nodes[index] = cluster.node(index)
        running = [index for index, node in enumerate(nodes) if node.process.poll() is None]
        step = max(node.step() for node in nodes)
        if running and moments and step >= moments[0] and time.monotonic() > delay:
            moments.pop(0)
            index, fault = draw.choice(running), draw.choice(FAULTS)
            done.append(f"{fault.__name__} {index} at step {step}")
            fault(nodes[index])
            delay = time.monotonic() + (draw.uniform(0, BEFORE) if moments and moments[0] <= 0 else 0)
        time.sleep(0.05)
    assert digest(output / "final") == expected, done
    assert losses(output) == curve, done
    return done, read_attempts(output).attempt, time.monotonic() - began
