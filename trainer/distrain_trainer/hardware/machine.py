"""What a run ran on: written down, because bit-exact results hold for one kind of machine and set of versions."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from distrain_trainer.hardware.numerics import matmul

PACKAGES = ("distrain", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "peft")
OPTIONAL = ("bitsandbytes", "deepspeed")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {package: version(package) for package in OPTIONAL if find_spec(package)}


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in bytes and accelerators of this machine."""
    accelerators = torch.cuda.device_count()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerator": torch.cuda.get_device_name(0) if accelerators else None,
        "accelerators": accelerators,
        "matmul": matmul(),
    }


def device_memory(local_rank: int, local_world: int) -> int:
    """Bytes that this process may fill: its GPU's memory, or on a CPU its part of what the container or the machine
    has, less what it holds already."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(local_rank).total_memory)
    return max(host_memory() // local_world - int(psutil.Process().memory_info().rss), 0)


def host_memory() -> int:
    """Bytes of what the container or the machine has."""
    limit = int(psutil.virtual_memory().total)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).exists() else ""
        limit = min(limit, int(text)) if text.isdigit() else limit
    return limit


def git_commit() -> str | None:
    """Commit of the folder that the run was started in, None outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
