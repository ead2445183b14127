"""Several nodes of one run on this machine, two if nobody says how many."""

import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch.distributed import DistError

from distrain_trainer.errors import LostPeer
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.store import open_store
from runs import COMMAND, Victim, train

HELD = 45.0
"""Seconds that a worker may be stopped: after 60 it counts as one that hangs."""


class Cluster:
    """Nodes of one process each, which share a folder. arguments: of `distrain train`, beside what it trains on."""

    def __init__(self, bert: Path, texts: Path, output: Path, *arguments: str, nodes: int = 2):
        self.bert, self.texts, self.output, self.arguments, self.nodes = bert, texts, output, arguments, nodes
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]

    def node(
        self, index: int, *more: str, command: Sequence[str] = COMMAND, environment: Mapping[str, str] | None = None
    ) -> Victim:
        own = {
            "PET_NNODES": str(self.nodes),
            "PET_NODE_RANK": str(index),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(self.port),
            "PET_NPROC_PER_NODE": "1",
            "OMP_NUM_THREADS": "1",
            "RUN_NODE_NAME": f"machine-{index}",
        }
        arguments = train(self.bert, self.texts, self.output, 1, *self.arguments, *more)
        return Victim(arguments, self.output, own | dict(environment or {}), command)

    def hold(self, node: Victim, until_there: Iterable[int], run: str) -> None:
        """Stops node 0's worker until others have come to the rendezvous, so that the run is not over before.

        until_there: their indices. run: its id.
        """
        workers, until = node.workers(), time.monotonic() + HELD
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        while not all(self._is_there(index, run) for index in until_there) and time.monotonic() < until:
            time.sleep(0.2)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)

    def _is_there(self, index: int, run: str) -> bool:
        with suppress(LostPeer, DistError):
            store = open_store(Node(1, self.nodes, 1, "127.0.0.1", self.port), run)
            return store.check([f"{int(store.get('rendezvous'))}/node/{index}"])
        return False
