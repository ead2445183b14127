"""What a node makes sure of before it starts workers, because later it would be a riddle."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from distrain_trainer.errors import VolumeError
from distrain_trainer.settings import Settings

MIB = 1 << 20
LOADER_BYTES = 16 * MIB
"""What a loader process may hold in shared memory: its batches wait there."""


def check_shared_memory(settings: Settings, processes: int, folder: Path = Path("/dev/shm")) -> None:
    """Makes sure that loader processes can hand over their batches; they die of a bus error otherwise.

    Raises VolumeError.
    """
    loaders = processes * settings.data.workers
    if not loaders or not folder.is_dir():
        return
    space = os.statvfs(folder)
    size, needed = space.f_blocks * space.f_frsize, loaders * LOADER_BYTES
    if size < needed:
        raise VolumeError(
            f"{folder} has {size // MIB} MB and {loaders} loader processes need {needed // MIB}; enlarge it "
            "(docker run --shm-size, sharedMemory of the chart), or lower data.workers"
        )


def check_volume(seen: Callable[[], str], token: str, folder: Path, patience: float = 60.0) -> None:
    """Makes sure that this node sees what node 0 wrote; a network file system may take a while. Raises VolumeError."""
    deadline = time.monotonic() + patience
    while seen() != token:
        if time.monotonic() > deadline:
            raise VolumeError(
                f"{folder} is not the folder that node 0 writes to; give all nodes the same ReadWriteMany volume"
            )
        time.sleep(0.2)
