"""What the supervisor imports for its workers: all that they need, and nothing that touches a GPU before the fork."""

import json
import subprocess
import sys

import pytest

PRELOADS = """
import json
import torch

# As a build for CUDA on a machine with a GPU, whose driver writes down what it is asked for.
touched = []
torch._C._cuda_getCurrentRawStream = None
torch._C._cuda_getDeviceCount = lambda: touched.append("number of GPUs") or 1
torch.cuda._device_count_nvml = lambda: 1
torch.cuda._lazy_init = lambda: touched.append("context")

from distrain_trainer.__main__ import preload

preload()
print(json.dumps(touched))
"""
IN_WORKER = """
import bitsandbytes
from peft.import_utils import is_bnb_4bit_available
from transformers.utils import is_bitsandbytes_available

assert is_bnb_4bit_available() and is_bitsandbytes_available()
print(json.dumps(touched))
"""


def touched(code: str) -> list[str]:
    """What a program has asked the driver for."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_supervisor_imports_what_workers_need_and_touches_no_gpu() -> None:
    """A process that is forked after its parent has looked at the GPUs cannot use them."""
    assert touched(PRELOADS) == []


def test_a_worker_that_quantizes_has_bitsandbytes_all_the_same() -> None:
    pytest.importorskip("bitsandbytes")
    assert "context" in touched(PRELOADS + IN_WORKER)
