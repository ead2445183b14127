"""What the supervisor does before it forks its workers: it imports all that they need, and touches no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runs import train

DRIVER = """
import json
import os
import sys
import torch

# As a build for CUDA on a machine with a GPU, whose driver writes down what it is asked for.
touched = []
torch._C._cuda_getCurrentRawStream = None
torch._C._cuda_getDeviceCount = lambda: touched.append("number of GPUs") or 1
torch.cuda._device_count_nvml = lambda: 1
torch.cuda._lazy_init = lambda: touched.append("context")

def tell():
    print(json.dumps([touched, "bitsandbytes" in sys.modules, "peft" in sys.modules]), flush=True)
    os._exit(0)
"""
UP_TO_THE_FORK = """
from distrain_k8s.cli import main

os.fork = tell
main()
"""
IN_A_WORKER = """
from distrain_trainer.__main__ import preload

preload()
import bitsandbytes
from peft.import_utils import is_bnb_4bit_available
from transformers.utils import is_bitsandbytes_available

assert is_bnb_4bit_available() and is_bitsandbytes_available()
tell()
"""


def told_by(code: str, *arguments: str) -> tuple[list[str], bool, bool]:
    """What a program has asked the driver for, and whether it has imported bitsandbytes and peft."""
    command = [sys.executable, "-c", DRIVER + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    touched, quantizes, adapts = json.loads(done.stdout.splitlines()[-1])
    return touched, quantizes, adapts


def test_the_supervisor_has_imported_what_workers_need_and_touched_no_gpu_when_it_forks_them(
    bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    """A process whose parent has looked at the GPUs before the fork cannot use them."""
    given = train(bert, few_texts, tmp_path / "out", 1, "--schedule.max_steps", "2")
    assert told_by(UP_TO_THE_FORK, *given) == ([], False, True)


def test_a_worker_that_quantizes_has_bitsandbytes_all_the_same() -> None:
    pytest.importorskip("bitsandbytes")
    touched, quantizes, _ = told_by(IN_A_WORKER)
    assert "context" in touched and quantizes
