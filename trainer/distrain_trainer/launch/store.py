"""Node 0's store (torch's TCPStore), in which the nodes of a run leave their messages, and the thread that reads it.

The thread keeps a dead network from holding up the one that ends the workers. Keys carry the run's name: a node of
another run, which finds this one at an address that its own node 0 had before, finds nothing here.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, cast

from torch.distributed import DistError, PrefixStore, TCPStore

from distrain_trainer.errors import LostPeer
from distrain_trainer.launch.messages import Message
from distrain_trainer.launch.node import Node

BEAT = 1.0
"""Seconds between two exchanges with the store."""
ANSWER = timedelta(seconds=5)
NEVER = float("-inf")


class Store(Protocol):
    """What is used of torch's stores. Every function raises DistError where the other side does not answer."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def add(self, key: str, amount: int) -> int: ...
    def append(self, key: str, value: str) -> None: ...


def open_store(node: Node, run: str) -> Store:
    """Node 0's store: its own there, a connection elsewhere. run: the run's name. Raises LostPeer."""
    address = "127.0.0.1" if node.first else node.address
    try:
        store = TCPStore(address, node.port, is_master=node.first, wait_for_workers=False, timeout=ANSWER)
    except DistError as error:
        if node.first:
            raise LostPeer(f"port {node.port} cannot be listened on ({error}); free it") from None
        raise LostPeer(f"node 0 does not answer at {node.address}:{node.port}") from None
    return cast(Store, PrefixStore(f"distrain/{run}", store))  # its stub lacks append


def read(store: Store, key: str) -> Message | None:
    """The message under a key, None where there is none. Raises DistError, and ValueError for what is no message."""
    if not store.check([key]):
        return None
    message = json.loads(store.get(key))
    if not isinstance(message, dict):
        raise ValueError(f"{key} is no message: {message!r}")
    return message


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


class Exchange(Protocol):
    """Something that is done with the store each second. answered: when that last worked, by the monotonic clock."""

    answered: float

    def wake(self) -> None: ...
    def end(self) -> None: ...


class ExchangeThread:
    """Exchanges with the store in a thread of its own; an Exchange. act: what it does, and fails in when the other side
    is gone."""

    def __init__(self, act: Callable[[], Any]):
        self.answered = time.monotonic()
        self._act, self._wake, self._ended = act, threading.Event(), False
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        """Has it exchange now."""
        self._wake.set()

    def end(self) -> None:
        """Ends the thread."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._ended:
                self._act()
                self.answered = time.monotonic()
                self._wake.wait(BEAT)
                self._wake.clear()
        except Exception:  # the other side is gone, or says what nobody can read: both are silence
            self.answered = NEVER
