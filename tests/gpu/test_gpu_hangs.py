"""A process that stops where others wait for its GPU is found, and its run goes on."""

import os
import signal
from pathlib import Path

import pytest
import torch

from runs import Victim, end, losses, train

pytestmark = pytest.mark.gpu

STEPS = {"cuda": 100, "cpu": 30}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_is_stopped_is_named_and_the_run_goes_on(
    processes: int, device: str, bert: Path, texts: Path, tmp_path: Path
) -> None:
    """With two, the other one waits for it in an all-reduce: of NCCL, or of gloo on a CPU."""
    if device == "cuda" and torch.cuda.device_count() < processes:
        pytest.skip("there is one GPU, and NCCL takes a GPU for each process")
    output = tmp_path / "out"
    steps = ("--schedule.max_steps", str(STEPS[device]), "--checkpoint.every_steps", "5")
    run = Victim(train(bert, texts, output, processes, *steps), output, {"OMP_NUM_THREADS": "1"})
    assert run.wait_for(lambda: run.step() >= 7), end(run)
    os.kill(run.workers()[-1], signal.SIGSTOP)
    said = end(run)
    assert f"process {processes - 1} has given no sign for 6" in said
    assert "(it was stopped by a signal); starting again" in said
    assert sorted(losses(output)) == [*range(1, STEPS[device] + 1)]
    if processes > 1:
        stacks = (output / "errors" / "attempt-1" / "node-0.stacks.txt").read_text()
        assert "--- process 0" in stacks and "File " in stacks
