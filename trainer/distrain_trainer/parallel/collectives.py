"""The processes of a run: who this one is, and the few things that all of them say to each other.

Messages are small and travel over gloo on the CPU, beside whatever moves the gradients. With one process every
function answers at once and no process group exists.
"""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from distrain_trainer.launch.node import nodes_of

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for a message from the others."""


@dataclass(frozen=True)
class ProcessRank:
    """Which process this is, as the launcher's environment says; one of one where there is no launcher.

    node: index of its machine. nodes: machines of the run, of which not all need to take part in this attempt.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    node: int = 0
    nodes: int = 1

    @staticmethod
    def from_environment() -> "ProcessRank":
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        return ProcessRank(rank, world, local_rank, local_world, *nodes_of(os.environ))

    @property
    def nodes_here(self) -> int:
        """Machines that take part in this attempt."""
        return self.world // self.local_world

    @property
    def place(self) -> int:
        """Place of its machine among those that take part."""
        return self.rank // self.local_world

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


def backend() -> str:
    """What carries tensors between processes: NCCL those of GPUs, gloo those of the CPU."""
    return "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"


def ensure_group(world: int) -> None:
    """Makes a process group of one, which sharding needs where there is one process and no launcher."""
    if world == 1 and not dist.is_initialized():
        store = dist.HashStore()
        dist.init_process_group(backend(), store=store, rank=0, world_size=1)


def total(values: list[float]) -> list[float]:
    """Each value summed over all processes, in float64."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def all_reduce_seconds(device: torch.device) -> float:
    """Seconds that the processes' devices take for an all-reduce of one number, once they are connected."""
    for _ in range(2):  # the first one connects them
        began = time.perf_counter()
        number = torch.ones(1, device=device)
        dist.all_reduce(number)
        number.item()  # waits for the device
    return time.perf_counter() - began


def gather(value: T) -> list[T]:
    """The value of every process, by rank; any object that pickles."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """Process 0's value, on all."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]
