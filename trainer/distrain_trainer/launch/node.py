"""Which machine of a run this is, as whoever started it says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distrain_trainer.errors import SettingsError
from distrain_trainer.launch import sagemaker
from distrain_trainer.launch.cluster_environment import ClusterEnvironment

PORT = 29500
NODE_INDEX, NODE_COUNT = "GROUP_RANK", "GROUP_WORLD_SIZE"
"""The variables in which a launcher, this one or torchrun, tells a worker its node's index and the number of nodes."""


@dataclass(frozen=True)
class Node:
    """A machine of a run.

    index: from 0, fixed for the run's life; it is what a replacement takes over. count: machines of the run.
    processes: workers on each. address, port: of node 0, where the rendezvous is. name: Kubernetes' name of the
    machine, empty where it is not known.
    """

    index: int
    count: int
    processes: int
    address: str = "127.0.0.1"
    port: int = PORT
    name: str = ""

    @property
    def first(self) -> bool:
        """Whether this node coordinates the run."""
        return self.index == 0

    @property
    def title(self) -> str:
        """What a person calls it."""
        return titled(self.index, self.name)


def speaker(environment: Mapping[str, str] = os.environ) -> str:
    """`node 1 rank 8`: the worker that a launcher's environment describes, empty where the run has one node."""
    index, count = nodes_of(environment)
    return f"node {index} rank {environment.get('RANK', 0)}" if count > 1 else ""


def nodes_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Index of a worker's node and number of nodes of its run, of which not all need to take part in its attempt."""
    rank, world = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    on_each = int(environment.get("LOCAL_WORLD_SIZE", world))
    return int(environment.get(NODE_INDEX, rank // on_each)), int(environment.get(NODE_COUNT, world // on_each))


def titled(index: int, name: str) -> str:
    """`node 3 (gpu-17)`: Kubernetes' name is what the chart's `avoidNodes` takes."""
    return f"node {index} ({name})" if name else f"node {index}"


def this_node(processes: int | None, environment: Mapping[str, str] = os.environ) -> Node:
    """The node that the environment describes: Kubeflow's PET_* variables, then SageMaker's files, else one of one.

    (RANK and WORLD_SIZE count nodes in a PyTorchJob and processes under torchrun, so they are not read.)
    processes: asked for by hand, None to take what the environment or the machine offers. Raises SettingsError.
    """
    cluster = ClusterEnvironment.read(environment)
    count, index, address, port = 1, 0, "127.0.0.1", PORT
    if environment.get("PET_NNODES"):
        count = _number(environment, "PET_NNODES")
        index = _number(environment, "PET_NODE_RANK") if count > 1 else 0
        address, port = environment.get("PET_MASTER_ADDR", ""), _number(environment, "PET_MASTER_PORT", PORT)
        asked = environment.get("PET_NPROC_PER_NODE", "")
        processes = int(asked) if processes is None and asked.isdigit() else processes
    elif job := sagemaker.job_here(environment):
        count, index, address = len(job.hosts), job.index, job.hosts[0]
        port = _number(environment, "MASTER_PORT", PORT)
    processes = processes_here(cluster) if processes is None else processes
    if processes < 1:
        raise SettingsError(f"--processes is {processes}; give 1 or more")
    if not 0 <= index < count:
        raise SettingsError(f"PET_NODE_RANK is {index} but PET_NNODES is {count}; count nodes from 0")
    if count > 1 and not address:
        raise SettingsError(f"PET_NNODES is {count} but PET_MASTER_ADDR is not set; set it to the address of node 0")
    return Node(index, count, processes, address or "127.0.0.1", port, cluster.node_name or "")


def processes_here(cluster: ClusterEnvironment) -> int:
    """Processes to start on this machine: one per GPU, or one without GPUs."""
    return max(gpus_here(cluster), 1)


def gpus_here(cluster: ClusterEnvironment) -> int:
    """GPUs of this machine that may be used: those that the cluster has promised, where one has.

    No library is asked, because workers are forked from this process.
    """
    if cluster.gpus_per_node is not None:
        return cluster.gpus_per_node
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise SettingsError(f"{name} is {text!r}; set it to a whole number")
    return int(text)
