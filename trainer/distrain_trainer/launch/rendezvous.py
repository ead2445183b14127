"""The rendezvous of a run's nodes: how they meet for an attempt and learn that it is over.

Node 0, the coordinator, holds a store (torch's TCPStore), in which every attempt has its own keys. Each other node, a
member, sends one heartbeat a second: who it is, and how its workers ended if they did. The coordinator answers twice:
that all members are there (`start`), and that the attempt is over and what follows (`outcome`). A node that is silent
for `SILENCE` is lost. A thread reads and writes the store, so that a dead network cannot hold up the one that ends the
workers. A run of one node has no members and no store.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore

from distrain_trainer.console import say
from distrain_trainer.errors import FailureReport, LostPeer, SettingsError, Stopped
from distrain_trainer.launch.node import Node, titled

SILENCE = 10.0
"""Seconds without a heartbeat after which a node counts as lost."""
BEAT = 1.0
"""Seconds between two heartbeats."""
SETTLE = 5.0
"""Seconds that the coordinator waits for a better explanation of a failure."""
SETTLE_STOPPED = 25.0
"""The same where all it knows is that workers were stopped or lost others: they may be saving."""
PATIENCE = 10.0
"""Seconds that the coordinator stays for the members to read the outcome."""
TOLD_EVERY = 30.0
"""Seconds between two sentences about who is waited for."""
ANSWER = timedelta(seconds=5)
WEAK = (Stopped.exit_code, LostPeer.exit_code)
"""Exit codes of failures that follow from others."""

Stopping = Callable[[], bool]
Message = Mapping[str, Any]
"""A JSON object in the store. Names that are not known here are ignored, because another build may know more."""


@dataclass(frozen=True)
class Start:
    """The coordinator's signal to start the workers.

    attempt: its number. token: what the volume must show. port: where the workers' process group meets. resume:
    whether they continue a run. nonces: of the members that take part, by index. coordinator: Kubernetes' name of node
    0's machine.
    """

    attempt: int
    token: str
    port: int
    resume: bool
    nonces: list[str]
    coordinator: str = ""

    @staticmethod
    def read(message: Message) -> "Start":
        attempt, token, port = message["attempt"], message["token"], message["port"]
        return Start(attempt, token, port, message["resume"], message["nonces"], message.get("coordinator", ""))


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended, for all nodes. failure: None where the run is finished. again: whether the nodes meet for
    another attempt."""

    failure: FailureReport | None
    again: bool = False

    @staticmethod
    def read(message: Message) -> "AttemptOutcome":
        return AttemptOutcome(_report(message.get("failure")), message.get("again", False))


@dataclass(frozen=True)
class Heartbeat:
    """What a member says of itself.

    nonce: tells it from its replacement. facts: what must be the same on all nodes. name: Kubernetes' name of its
    machine. beat: counts its heartbeats. failure: how its workers failed. asked: whether they failed because that node
    was asked to stop. finished: whether its workers have finished.
    """

    nonce: str
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    beat: int = 0
    failure: FailureReport | None = None
    asked: bool = False
    finished: bool = False

    @staticmethod
    def read(message: Message) -> "Heartbeat":
        return Heartbeat(
            message["nonce"],
            message.get("facts", {}),
            message.get("name", ""),
            message.get("beat", 0),
            _report(message.get("failure")),
            message.get("asked", False),
            message.get("finished", False),
        )


class Coordinator:
    """Node 0's part in an attempt. store: None where the run has one node."""

    def __init__(self, node: Node, store: Any, number: int, facts: dict[str, Any], stopping: Stopping):
        self._node, self._store, self._number, self._facts, self._stopping = node, store, number, facts, stopping
        self._heartbeats: dict[int, Heartbeat] = {}
        self._heard_at: dict[int, float] = {}
        self._own: FailureReport | None = None
        self._own_asked = False
        self._first_failure: float | None = None
        self._started: list[Heartbeat] = []
        self._exchange = _Exchange(self._listen) if store is not None else None
        if store is not None:
            store.set("attempt", str(number))

    def gather(self) -> None:
        """Waits for all members, however long it takes, and compares facts. Raises SettingsError, Stopped."""
        told = time.monotonic()
        while missing := [index for index in range(1, self._node.count) if self._silence(index) > SILENCE]:
            _check(self._stopping)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                say(f"waiting for {_listed(missing)} of {self._node.count}")
            time.sleep(0.1)
        for index, heartbeat in sorted(self._heartbeats.items()):
            for fact, value in self._facts.items():
                if heartbeat.facts.get(fact) != value:
                    raise SettingsError(
                        f"{fact} is {heartbeat.facts.get(fact)} on {titled(index, heartbeat.name)} and {value} on "
                        f"{self._node.title}; start all nodes from the same image and settings"
                    )

    def start(self, attempt: int, token: str, resume: bool) -> Start:
        """Lets all nodes start their workers."""
        self._started = [self._heartbeats[index] for index in range(1, self._node.count)]
        nonces = [heartbeat.nonce for heartbeat in self._started]
        start = Start(attempt, token, _free_port(), resume, nonces, self._node.name)
        self._send("start", start)
        return start

    def fail(self, report: FailureReport, asked: bool) -> None:
        """Notes how node 0's own workers failed. asked: because node 0 was asked to stop."""
        self._own, self._own_asked = report, asked

    def title(self, index: int) -> str:
        """What a person calls the node with this index, which has taken part from the start of the attempt."""
        return titled(index, self._started[index - 1].name) if index else self._node.title

    def members_finished(self) -> bool:
        """Whether the workers of all members have finished."""
        indices = range(1, self._node.count)
        return all(index in self._heartbeats and self._heartbeats[index].finished for index in indices)

    def cause(self) -> tuple[int, FailureReport] | None:
        """The node and the failure that end the attempt; None while there is none, or while a better one may come."""
        now = time.monotonic()
        failures = {0: self._own} if self._own else {}
        asked = [0] if self._own and self._own_asked else []
        reported = set(failures)
        for index, heartbeat in sorted(self._heartbeats.items()):
            if heartbeat.nonce != self._started[index - 1].nonce:
                return index, FailureReport(LostPeer.exit_code, "it was replaced")
            if heartbeat.failure is not None:
                failures[index] = heartbeat.failure
                asked += [index] * heartbeat.asked
            if heartbeat.failure is not None or heartbeat.finished:
                reported.add(index)
            elif self._silence(index) > SILENCE:
                return index, FailureReport(LostPeer.exit_code, f"it said nothing for {SILENCE:.0f} s")
        if not failures:
            return None
        self._first_failure = self._first_failure or now
        strong = [index for index, report in failures.items() if report.exit_code not in WEAK]
        patience = SETTLE if strong else SETTLE_STOPPED
        if len(reported) < self._node.count and now - self._first_failure < patience:
            return None
        index = next(iter(strong or asked or failures))
        return index, failures[index]

    def close(self, outcome: AttemptOutcome) -> None:
        """Tells all members that the attempt is over, and gives them time to read it."""
        self._send("outcome", outcome)
        if self._exchange is None:
            return
        deadline = time.monotonic() + PATIENCE
        there = sum(self._silence(index) < SILENCE for index in self._heartbeats)
        while time.monotonic() < deadline and self._store.add(f"{self._number}/heard", 0) < there:
            time.sleep(0.05)
        self._exchange.end()

    def _send(self, key: str, content: Start | AttemptOutcome) -> None:
        if self._store is not None:
            self._store.set(f"{self._number}/{key}", json.dumps(asdict(content)))

    def _listen(self) -> None:
        for index in range(1, self._node.count):
            message = _read(self._store, f"{self._number}/node/{index}")
            if message is None:
                continue
            heartbeat = Heartbeat.read(message)
            before = self._heartbeats.get(index)
            if before is None or (heartbeat.nonce, heartbeat.beat) != (before.nonce, before.beat):
                self._heartbeats[index], self._heard_at[index] = heartbeat, time.monotonic()

    def _silence(self, index: int) -> float:
        return time.monotonic() - self._heard_at.get(index, -SILENCE)


class Member:
    """The part of any other node in an attempt. after: number of the attempt that it took part in before.

    Raises LostPeer where the coordinator cannot be reached, Stopped.
    """

    def __init__(self, node: Node, store: Any, after: int, facts: dict[str, Any], stopping: Stopping):
        self._store, self._stopping = store, stopping
        self._nonce, self._facts, self._name = secrets.token_hex(8), facts, node.name
        self._beat, self._finished = 0, False
        self._failure: tuple[FailureReport | None, bool] = (None, False)
        self.number = self._next_attempt(after)
        self._key = f"{self.number}/node/{node.index}"
        self.outcome: AttemptOutcome | None = None
        self._start: Start | None = None
        self._exchange = _Exchange(self._send_and_listen)

    def wait_for_start(self) -> Start | None:
        """Waits for the coordinator's signal; None where the attempt is over before, or has begun without this node."""
        while self.outcome is None:
            _check(self._stopping)
            self.check_coordinator()
            if self._start is not None and self._nonce in self._start.nonces:
                return self._start
            time.sleep(0.1)
        return None

    def check_coordinator(self) -> None:
        """Raises LostPeer where the coordinator is silent."""
        if time.monotonic() - self._exchange.answered > SILENCE:
            raise LostPeer(f"lost {titled(0, self._start.coordinator if self._start else '')}")

    def fail(self, report: FailureReport, asked: bool) -> None:
        """Tells how this node's workers failed. asked: because this node was asked to stop."""
        self._failure = report, asked
        self._exchange.wake()

    def close(self, finished: bool) -> None:
        """Sends a last heartbeat, where it is heard."""
        self._finished = finished
        try:
            self._send_and_listen()
            self._store.add(f"{self.number}/heard", 1)
        except DistError:
            pass
        self._exchange.end()

    def _next_attempt(self, after: int) -> int:
        number = after
        while number <= after:
            _check(self._stopping)
            time.sleep(0.1)
            try:
                number = int(self._store.get("attempt"))
            except DistError as error:
                raise LostPeer(f"lost node 0 ({error})") from None
        return number

    def _send_and_listen(self) -> None:
        self._beat += 1
        heartbeat = Heartbeat(self._nonce, self._facts, self._name, self._beat, *self._failure, self._finished)
        self._store.set(self._key, json.dumps(asdict(heartbeat)))
        if self._start is None and (message := _read(self._store, f"{self.number}/start")):
            self._start = Start.read(message)
        if self.outcome is None and (message := _read(self._store, f"{self.number}/outcome")):
            self.outcome = AttemptOutcome.read(message)


class _Exchange:
    """A thread that reads and writes the store each second. answered: when the store last did, by the monotonic
    clock."""

    def __init__(self, exchange: Callable[[], None]):
        self.answered = time.monotonic()
        self._exchange, self._wake, self._ended = exchange, threading.Event(), False
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
                self._exchange()
                self.answered = time.monotonic()
                self._wake.wait(BEAT)
                self._wake.clear()
        except DistError:  # the other side is gone
            self.answered = -SILENCE


def open_store(node: Node, stopping: Stopping) -> TCPStore | None:
    """Node 0's store: its own there, a connection elsewhere, waited for however long it takes. Raises Stopped."""
    if node.count == 1:
        return None
    address = "127.0.0.1" if node.first else node.address
    told = time.monotonic()
    while True:
        _check(stopping)
        try:
            return TCPStore(address, node.port, is_master=node.first, wait_for_workers=False, timeout=ANSWER)
        except DistError as error:
            if node.first:
                raise LostPeer(f"port {node.port} cannot be listened on ({error}); free it") from None
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            say(f"waiting for node 0 at {node.address}:{node.port}")
        time.sleep(0.5)


def _read(store: Any, key: str) -> Message | None:
    return json.loads(store.get(key)) if store.check([key]) else None


def _report(values: Message | None) -> FailureReport | None:
    return FailureReport.read(values) if values else None


def _check(stopping: Stopping) -> None:
    if stopping():
        raise Stopped("stopped while waiting for the other nodes; nothing is lost")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


def _listed(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"node{'s' if len(indices) > 1 else ''} {shown}{more}"
