"""What a node checks before it starts workers, because later the same faults are hard to explain."""

import ctypes
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from distrain_trainer.console import warn
from distrain_trainer.errors import SettingsError, VolumeError
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.retry import volume_error

MIB = 1 << 20
LOADER_BYTES = 16 * MIB
"""What a loader process may hold in shared memory: its batches wait there."""
NCCL_BYTES = 16 * MIB
"""What NCCL may hold there for each process with a GPU: a segment of 9.2 MB and queues of its own."""
LOCKED_BYTES = 64 * MIB
"""Least memory that a process should be free to lock for InfiniBand or RoCE."""
IPC_LOCK = 1 << 14
"""CAP_IPC_LOCK in a mask of capabilities: no limit holds for who has it."""


DEVICES = Path("/dev/infiniband")
"""Where RDMA devices are, InfiniBand's and RoCE's."""
VERBS = "libibverbs.so.1"
"""What NCCL loads to use them."""


def check_shared_memory(settings: Settings, processes: int, gpus: int = 0, folder: Path = Path("/dev/shm")) -> None:
    """Makes sure that loader processes can hand over their batches, which die of a bus error otherwise, and that NCCL
    can connect the GPUs of this machine. gpus: how many it has. Raises VolumeError.
    """
    loaders, connected = processes * settings.data.workers, processes if gpus and processes > 1 else 0
    needed = loaders * LOADER_BYTES + connected * NCCL_BYTES
    if not needed or not folder.is_dir():
        return
    space = os.statvfs(folder)
    size = space.f_blocks * space.f_frsize
    if size < needed:
        users = [f"{connected} processes with GPUs"] * bool(connected) + [f"{loaders} loader processes"] * bool(loaders)
        raise VolumeError(
            f"{folder} has {size // MIB} MB and {' and '.join(users)} need {needed // MIB}; enlarge it (docker run "
            f"--shm-size, sharedMemory of the chart){', or lower data.workers' if loaders else ''}"
        )


def check_locked_memory(nodes: int, devices: Path = DEVICES) -> None:
    """Warns where NCCL will use RDMA between nodes and may not lock the memory that it needs for it."""
    if problem := locked_memory_problem(nodes, devices):
        warn(problem)


def locked_memory_problem(nodes: int, devices: Path = DEVICES) -> str | None:
    """Why NCCL, which will use RDMA between nodes, may not lock the memory that it needs for it; None where it may."""
    if nodes == 1 or os.environ.get("NCCL_IB_DISABLE") == "1" or not list(devices.glob("uverbs*")):
        return None
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or limit >= LOCKED_BYTES or _capabilities() & IPC_LOCK:
        return None
    return (
        f"RDMA devices are here but a process may lock only {limit // 1024} KB of memory, at which NCCL "
        "fails; raise the container runtime's limit (LimitMEMLOCK=infinity, --ulimit memlock=-1), or set "
        "NCCL_IB_DISABLE=1"
    )


def check_rdma(promised: bool, devices: Path = DEVICES, library: str = VERBS) -> None:
    """Makes sure that NCCL can use RDMA where it was promised: it falls back to TCP without a word. Raises
    SettingsError.
    """
    if not promised:
        return
    try:
        ctypes.CDLL(library)
    except OSError as error:
        raise SettingsError(
            f"RDMA was promised but libibverbs, which NCCL needs for it, cannot be loaded ({error}); install "
            "libibverbs1 and ibverbs-providers in the image, or set rdma.enabled=false in the chart"
        ) from None
    if not list(devices.glob("uverbs*")):
        raise SettingsError(
            f"RDMA was promised but {devices} has no uverbs device here; check the node's RDMA device plugin and "
            "driver, or set rdma.enabled=false in the chart"
        )


def _capabilities() -> int:
    """The capabilities that this process has now; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


def check_volume(seen: Callable[[], str], token: str, folder: Path, patience: float = 60.0) -> None:
    """Makes sure that this node sees what node 0 wrote; a network file system may take a while.

    Raises VolumeError, VolumeLost.
    """
    deadline = time.monotonic() + patience
    while True:
        trouble = None
        try:
            if seen() == token:
                return
        except OSError as error:
            trouble = error
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if trouble:
        raise volume_error("cannot be read", folder, trouble)
    raise VolumeError(f"{folder} is not the folder that node 0 writes to; give all nodes the same ReadWriteMany volume")
