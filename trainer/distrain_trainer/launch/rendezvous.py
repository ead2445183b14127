"""How the nodes of a run meet for an attempt and learn that it is over.

Node 0 holds a store (torch's TCPStore), in which every attempt has its own keys. A guest says one thing each second:
who it is, and how its workers ended if they did. The host, node 0, says two: that all have come (`go`), and that the
attempt is over and what follows (`verdict`). Who is silent for `SILENCE` is lost. A thread does the talking, so that
a dead network cannot hold up the one that ends the workers. With one node there is nobody to talk to and no store.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, TCPStore

from distrain_trainer.console import say
from distrain_trainer.errors import LostPeer, SettingsError, Stopped
from distrain_trainer.launch.node import Node, titled

SILENCE = 10.0
"""Seconds without a word after which a node counts as lost."""
BEAT = 1.0
"""Seconds between two words of a node."""
SETTLE = 5.0
"""Seconds that the host waits for a better explanation of a failure."""
SETTLE_STOPPED = 25.0
"""The same where all it knows is that workers were stopped or lost others: they may be saving."""
PATIENCE = 10.0
"""Seconds that the host stays for guests to hear the verdict."""
TOLD_EVERY = 30.0
"""Seconds between two sentences about who is waited for."""
ANSWER = timedelta(seconds=5)
WEAK = (Stopped.exit_code, LostPeer.exit_code)
"""Endings that follow from others."""

Stopping = Callable[[], bool]


@dataclass(frozen=True)
class Failure:
    """How the workers of a node ended badly. asked: because that node was asked to stop."""

    code: int
    sentence: str
    asked: bool


@dataclass(frozen=True)
class Go:
    """The host's word to begin. token: what the volume must show. port: where the workers meet. resume: whether they
    continue a run. nonces: of the guests that have come, by index. host: Kubernetes' name of node 0's machine."""

    attempt: int
    token: str
    port: int
    resume: bool
    nonces: list[str]
    host: str


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended, for all nodes. again: whether they meet for another."""

    code: int
    sentence: str
    again: bool


@dataclass
class Word:
    """What a guest says of itself. nonce: tells it from its replacement. facts: what must be the same everywhere.
    name: Kubernetes' name of its machine."""

    nonce: str
    facts: dict[str, Any]
    name: str = ""
    beat: int = 0
    failure: dict[str, Any] | None = None
    finished: bool = False


class Host:
    """Node 0's part in an attempt. store: None where the run has one node."""

    def __init__(self, node: Node, store: Any, number: int, facts: dict[str, Any], stopping: Stopping):
        self._node, self._store, self._number, self._facts, self._stopping = node, store, number, facts, stopping
        self._words: dict[int, Word] = {}
        self._heard_at: dict[int, float] = {}
        self._own: Failure | None = None
        self._first_failure: float | None = None
        self._started: list[Word] = []
        self._talk = _Talk(self._listen) if store is not None else None
        if store is not None:
            store.set("attempt", str(number))

    def gather(self) -> None:
        """Waits for all guests, however long it takes, and compares facts. Raises SettingsError, Stopped."""
        told = time.monotonic()
        while missing := [index for index in range(1, self._node.count) if self._silence(index) > SILENCE]:
            _check(self._stopping)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                say(f"waiting for {_listed(missing)} of {self._node.count}")
            time.sleep(0.1)
        for index, word in sorted(self._words.items()):
            for fact, value in self._facts.items():
                if word.facts.get(fact) != value:
                    raise SettingsError(
                        f"{fact} is {word.facts.get(fact)} on {titled(index, word.name)} and {value} on "
                        f"{self._node.title}; start all nodes from the same image and settings"
                    )

    def start(self, attempt: int, token: str, resume: bool) -> Go:
        """Lets all start their workers."""
        self._started = [self._words[index] for index in range(1, self._node.count)]
        go = Go(attempt, token, _free_port(), resume, [word.nonce for word in self._started], self._node.name)
        self._tell("go", go)
        return go

    def failed(self, failure: Failure) -> None:
        """Notes how node 0's own workers ended."""
        self._own = failure

    def title(self, index: int) -> str:
        """What a person calls the node with this index, which has taken part from the start of the attempt."""
        return titled(index, self._started[index - 1].name) if index else self._node.title

    def guests_finished(self) -> bool:
        """Whether the workers of all guests have finished."""
        return all(index in self._words and self._words[index].finished for index in range(1, self._node.count))

    def cause(self) -> tuple[int, Failure] | None:
        """The node and the failure that end the attempt; None while there is none, or while a better one may come."""
        now = time.monotonic()
        failures = {0: self._own} if self._own else {}
        reported = set(failures)
        for index, word in sorted(self._words.items()):
            if word.nonce != self._started[index - 1].nonce:
                return index, Failure(LostPeer.exit_code, "it was replaced", asked=True)
            if word.failure is not None:
                failures[index] = Failure(**word.failure)
            if word.failure is not None or word.finished:
                reported.add(index)
            elif self._silence(index) > SILENCE:
                return index, Failure(LostPeer.exit_code, f"it said nothing for {SILENCE:.0f} s", asked=False)
        if not failures:
            return None
        self._first_failure = self._first_failure or now
        strong = {index: failure for index, failure in failures.items() if failure.code not in WEAK}
        patience = SETTLE if strong else SETTLE_STOPPED
        if len(reported) < self._node.count and now - self._first_failure < patience:
            return None
        asked = {index: failure for index, failure in failures.items() if failure.asked}
        return next(iter((strong or asked or failures).items()))

    def close(self, verdict: Verdict) -> None:
        """Tells all guests that the attempt is over, and gives them time to hear it."""
        self._tell("verdict", verdict)
        if self._talk is None:
            return
        deadline = time.monotonic() + PATIENCE
        there = sum(self._silence(index) < SILENCE for index in self._words)
        while time.monotonic() < deadline and self._store.add(f"{self._number}/heard", 0) < there:
            time.sleep(0.05)
        self._talk.end()

    def _tell(self, what: str, content: Go | Verdict) -> None:
        if self._store is not None:
            self._store.set(f"{self._number}/{what}", json.dumps(asdict(content)))

    def _listen(self) -> None:
        for index in range(1, self._node.count):
            text = _read(self._store, f"{self._number}/node/{index}")
            if text is None:
                continue
            word = Word(**text)
            before = self._words.get(index)
            if before is None or (word.nonce, word.beat) != (before.nonce, before.beat):
                self._words[index], self._heard_at[index] = word, time.monotonic()

    def _silence(self, index: int) -> float:
        return time.monotonic() - self._heard_at.get(index, -SILENCE)


class Guest:
    """The part of any other node in an attempt. after: number of the attempt that it took part in before.

    Raises LostPeer where the host cannot be reached, Stopped.
    """

    def __init__(self, node: Node, store: Any, after: int, facts: dict[str, Any], stopping: Stopping):
        self._store, self._stopping = store, stopping
        self._word = Word(secrets.token_hex(8), facts, node.name)
        self.number = self._next_attempt(after)
        self._key = f"{self.number}/node/{node.index}"
        self.verdict: Verdict | None = None
        self._go: Go | None = None
        self._talk = _Talk(self._say_and_listen)

    def wait_for_start(self) -> Go | None:
        """Waits for the host's word; None where the attempt is over before, or has begun without this node."""
        while self.verdict is None:
            _check(self._stopping)
            self.check_host()
            if self._go is not None and self._word.nonce in self._go.nonces:
                return self._go
            time.sleep(0.1)
        return None

    def check_host(self) -> None:
        """Raises LostPeer where the host is silent."""
        if time.monotonic() - self._talk.answered > SILENCE:
            raise LostPeer(f"lost {titled(0, self._go.host if self._go else '')}")

    def failed(self, failure: Failure) -> None:
        """Says how this node's workers ended."""
        self._word.failure = asdict(failure)
        self._talk.wake()

    def close(self, finished: bool) -> None:
        """Ends the talking, with a last word where it is heard."""
        self._word.finished = finished
        try:
            self._say_and_listen()
            self._store.add(f"{self.number}/heard", 1)
        except DistError:
            pass
        self._talk.end()

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

    def _say_and_listen(self) -> None:
        self._word.beat += 1
        self._store.set(self._key, json.dumps(asdict(self._word)))
        if self._go is None and (go := _read(self._store, f"{self.number}/go")):
            self._go = Go(**go)
        if self.verdict is None and (verdict := _read(self._store, f"{self.number}/verdict")):
            self.verdict = Verdict(**verdict)


class _Talk:
    """A thread that talks each second. answered: when the other side last did, by the monotonic clock."""

    def __init__(self, talk: Callable[[], None]):
        self.answered = time.monotonic()
        self._talk, self._wake, self._ended = talk, threading.Event(), False
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        """Has it talk now."""
        self._wake.set()

    def end(self) -> None:
        """Has it fall silent."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._ended:
                self._talk()
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


def _read(store: Any, key: str) -> dict[str, Any] | None:
    return json.loads(store.get(key)) if store.check([key]) else None


def _check(stopping: Stopping) -> None:
    if stopping():
        raise Stopped("stopped while waiting for the other nodes; nothing is lost")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def _listed(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"node{'s' if len(indices) > 1 else ''} {shown}{more}"
