"""Several nodes of one run on this machine, two if nobody says how many."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from runs import COMMAND, Victim, train


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
