"""Faults of what a run stands on: they pass, and the run with them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub
from distrain_trainer.storage.attempts import read_attempts
from runs import COMMAND, Victim, digest, finish, losses, train
from two_nodes import Cluster

STEPS = ("--schedule.max_steps", "24", "--checkpoint.every_steps", "4", "--run_id", "run1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the first process of a container")
def test_sigterm_to_the_first_process_of_a_container_is_heard_from_its_first_moment(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    wrapper = ["unshare", "--pid", "--fork", "--kill-child", "env", "--block-signal=TERM"]
    run = Victim(train(bert, texts, tmp_path / "out", 1, *STEPS), tmp_path / "out", command=[*wrapper, *COMMAND])
    first = 0
    while not first:
        first = next(iter(run.workers()), 0)
    while "python" not in Path(f"/proc/{first}/cmdline").read_text().partition("\0")[0]:
        time.sleep(0.001)
    os.kill(first, signal.SIGTERM)
    said = run.process.communicate(timeout=120)[1]
    assert run.process.returncode == 143, said
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small file system of its own, and mount says: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def waits(log: Path) -> list[dict[str, str]]:
    """What the run has told programs that it waits for."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line.get("event") == "waiting"]


@pytest.mark.matrix
def test_a_full_volume_is_waited_for_and_a_stop_goes_through(bert: Path, texts: Path, small_volume: Path) -> None:
    whole, output = small_volume.parent / "whole", small_volume / "out"
    finish(train(bert, texts, whole, 1, *STEPS))
    run = Victim(train(bert, texts, output, 1, *STEPS), output)
    assert run.wait_for(lambda: run.step() >= 5 and (output / "checkpoint-4").exists())
    ballast = small_volume / "ballast"
    ballast.write_bytes(b"x" * max(shutil.disk_usage(small_volume).free - 4096, 0))
    run.process.send_signal(signal.SIGTERM)
    said = run.process.communicate(timeout=120)[1]
    assert run.process.returncode == 143, said
    assert "Traceback" not in said and "could NOT be written" in said

    log = small_volume.parent / "log"
    run = Victim(train(bert, texts, output, 1, *STEPS), output, printed=log)
    assert run.wait_for(lambda: len(waits(log)) >= 2), run.process.communicate()[1]
    first, second = waits(log)[:2]
    assert "No space left on device; make room, and the run goes on" in first["message"]
    assert first["since"] == second["since"], "since the first of them"
    ballast.unlink()
    said = run.process.communicate(timeout=240)[1]
    assert run.process.returncode == 0, said
    assert "No space left on device; make room, and the run goes on; starting again" in said
    assert digest(output / "final") == digest(whole / "final")
    assert losses(output) == losses(whole)


@pytest.mark.matrix
@pytest.mark.parametrize("fault", ["503", "unreachable"])
def test_a_hub_that_is_away_when_a_cold_node_resumes_is_waited_for(
    bert: Path, texts: Path, tmp_path: Path, fault: str
) -> None:
    files = {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()}
    output = tmp_path / "out"
    with hub.serve({"models/owner/tiny": hub.Repository(files)}) as service:
        arguments = ["--model.name=owner/tiny", *STEPS]
        environment = service.environment(tmp_path / "cache")
        run = Victim(train(bert, texts, output, 1, *arguments), output, environment)
        assert run.wait_for(lambda: (output / "checkpoint-4").exists()), run.process.communicate()[1]
        run.process.send_signal(signal.SIGTERM)
        said = run.process.communicate(timeout=120)[1]
        assert run.process.returncode == 143, said

        cold = environment | {"HF_HOME": str(tmp_path / "another")}
        if fault == "unreachable":
            cold["HF_ENDPOINT"] = "http://127.0.0.1:9"
        else:
            service.answers.append(503)
        run = Victim(train(bert, texts, output, 1, *arguments), output, cold)
        third = output / "logs" / "node-0.attempt-3.log"
        assert run.wait_for(third.exists), run.process.communicate()[1]
        if fault == "unreachable":
            run.process.send_signal(signal.SIGTERM)
            sentence, code = "cannot be reached for model owner/tiny", 143
        else:
            service.answers.clear()
            sentence, code = "the Hub answered 503 for model owner/tiny", 0
        said = run.process.communicate(timeout=240)[1]
        assert run.process.returncode == code, said
        assert re.search(f"{sentence}.*; starting again", said), said


BAD_MACHINE = """
import sys, time, torch
from pathlib import Path
matmul, broken = torch.matmul, Path(sys.argv.pop(1))
def multiply(left, right):
    product = matmul(left, right)
    if left.shape == (512, 512):
        time.sleep(0.2)
        if broken.exists():
            broken.unlink()
            product[3, 5] += 1
    return product
torch.matmul = multiply
from distrain_k8s.cli import main
main()
"""
"""The command on a machine whose first product of large matrices is wrong, and all of which are slow. Its workers are
forked from it."""


@pytest.mark.matrix
def test_a_machine_that_computes_wrong_ends_an_attempt_and_one_that_is_slow_is_named(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    steps = ("--schedule.max_steps", "4", "--run_id", "run1")
    broken = tmp_path / "broken"
    broken.touch()
    cluster = Cluster(bert, texts, tmp_path / "out", *steps)
    bad = [sys.executable, "-c", BAD_MACHINE, str(broken)]
    nodes = [cluster.node(0), cluster.node(1, command=bad)]
    said = [node.process.communicate(timeout=300)[1] for node in nodes]
    assert [node.process.returncode for node in nodes] == [0, 0], said
    wrong = "node 1 (machine-1) is broken: process 1 has computed a wrong product of matrices; "
    slow = "process 1 on node 1 (machine-1) multiplies matrices "
    assert said[0].index(wrong) < said[0].index(slow), "the attempt after it checks the machines again"
    assert read_attempts(cluster.output).attempt == 2 and len(losses(cluster.output)) == 4
