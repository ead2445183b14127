"""Node 0's part in the rendezvous: it gathers the members, starts the attempt, and finds out why it ended.

Functions that wait are generators of the seconds to wait. They never block, so that the tests can run any number of
nodes by a clock of their own.
"""

import math
from collections.abc import Container, Generator
from dataclasses import dataclass
from typing import TypeVar

from distrain_trainer.errors import FailureReport, LostPeer, SettingsError, Stopped, is_retried
from distrain_trainer.launch.messages import AttemptOutcome, Heartbeat, Start, to_text
from distrain_trainer.launch.node import titled
from distrain_trainer.launch.store import NEVER, Exchange, Store, read
from distrain_trainer.launch.surroundings import Meeting, RunFinished

SILENCE = 10.0
"""Seconds without a heartbeat after which a node counts as lost."""
SILENCE_REPLACED = 3.0
"""The same where another node with its index waits for its place."""
SETTLE = 5.0
"""Seconds that the coordinator waits for a better explanation of a failure."""
SETTLE_STOPPED = 25.0
"""The same where the workers of other nodes may be about to leave by themselves, and to save before."""
PATIENCE = 10.0
"""Seconds that the coordinator stays for the members to read the outcome."""
TOLD_EVERY = 30.0
"""Seconds between two sentences about who is waited for."""
TICK = 0.1

T = TypeVar("T")
Waiting = Generator[float, None, T]
"""Waits by yielding seconds, and returns a T."""


@dataclass(frozen=True)
class Cause:
    """Why an attempt ends. index: of the node where it failed. asked: a node was asked to stop, and this is what came
    of it."""

    index: int
    report: FailureReport
    asked: bool = False


class Coordinator:
    """Node 0's part in an attempt. store: None where the run has one node. number: of the rendezvous."""

    def __init__(self, around: Meeting, store: Store | None, number: int):
        self._around, self._node, self._store, self._number = around, around.node, store, number
        self._heard: dict[tuple[int, str], tuple[Heartbeat, float]] = {}
        self._own: Cause | None = None
        self._first_failure: float | None = None
        self._started: dict[int, Heartbeat] = {}
        self._refused: set[int] = set()
        self._exchange: Exchange | None = None
        if store is not None:
            store.set("rendezvous", str(number))
            self._exchange = around.exchange(self._listen)

    def gather(
        self, fewest: int | None = None, patience: float = math.inf, left_out: Container[int] = ()
    ) -> Waiting[None]:
        """Waits for the members and compares facts. Raises SettingsError, Stopped, RunFinished.

        fewest: nodes with which the attempt may begin where others do not come, node 0 included; None for all, however
        long it takes. patience: seconds for which each of the others is waited for, from when it was last there.
        left_out: indices of those that were waited for in vain before.
        """
        told = self._around.now()
        seen = {index: -math.inf if index in left_out else told for index in self._indices}
        while True:
            there, now = self._members(), self._around.now()
            seen |= dict.fromkeys(there, now)
            missing = [index for index in self._indices if index not in there]
            enough = fewest is not None and 1 + len(there) >= fewest
            if not missing or (enough and all(now - seen[index] > patience for index in missing)):
                break
            check(self._around)
            if now - told > TOLD_EVERY:
                told = now
                self._around.say(f"waiting for {listed(missing)} of {self._node.count}")
            yield TICK
        for index, heartbeat in there.items():
            if different := self._different(index, heartbeat):
                raise SettingsError(different)
        self._started = dict(sorted(there.items()))
        if missing:
            self._around.say(
                f"goes on with {1 + len(there)} of {self._node.count} nodes, without {listed(missing)}; whoever comes "
                "back takes part from the next checkpoint on"
            )

    @property
    def nodes(self) -> list[int]:
        """Indices of the nodes that take part."""
        return [0, *self._started]

    def start(self, attempt: int, token: str, resume: bool, check: bool = False) -> Start:
        """Lets the nodes that take part start their workers. check: these check the machines first."""
        nonces = [heartbeat.nonce for heartbeat in self._started.values()]
        port = self._around.free_port()
        start = Start(attempt, token, port, resume, self.nodes, nonces, self._node.name, check)
        self._send("start", start)
        return start

    def fail(self, report: FailureReport, asked: bool) -> None:
        """Notes how node 0's own workers failed. asked: because node 0 was asked to stop."""
        self._own = Cause(0, report, asked)

    def title(self, index: int) -> str:
        """What a person calls the node with this index, which has taken part from the start of the attempt."""
        return titled(index, self._started[index].name) if index else self._node.title

    def members_finished(self) -> bool:
        """Whether the workers of all members that take part have finished."""
        return all(self._latest(index)[0].finished for index in self._started)

    def returned(self) -> list[int]:
        """Indices of the nodes that take no part but are there, and could."""
        if len(self._started) == len(self._indices):
            return []
        back = []
        for index, heartbeat in sorted(self._members().items()):
            different = None if index in self._started else self._different(index, heartbeat)
            if different and index not in self._refused:
                self._refused.add(index)
                self._around.say(f"{titled(index, heartbeat.name)} is back and is not let in: {different}")
            elif index not in self._started and not different:
                back.append(index)
        return back

    def absent(self) -> set[int]:
        """Indices of the nodes that take no part and are not there."""
        return set(self._indices) - self._started.keys() - self._members().keys()

    def cause(self) -> Cause | None:
        """What ends the attempt; None while there is nothing, or while a better explanation may come."""
        now = self._around.now()
        failures = {0: self._own} if self._own else {}
        reported = len(failures)
        for index in self._started:
            heartbeat, heard = self._latest(index)
            if heartbeat.failure is not None:
                failures[index] = Cause(index, heartbeat.failure, heartbeat.asked)
            if heartbeat.failure is not None or heartbeat.finished:
                reported += 1
            elif now - heard > SILENCE:
                return Cause(index, lost(f"it said nothing for {SILENCE:.0f} s"))
            elif now - heard > SILENCE_REPLACED and self._members().get(index, heartbeat).nonce != heartbeat.nonce:
                return Cause(index, lost("it was replaced"))
        if not failures:
            return None
        self._first_failure = self._first_failure or now
        strong = [found for found in failures.values() if not follows(found.report)]
        at_once = any(is_retried(found.report.exit_code) for found in strong)
        patience = SETTLE if at_once else SETTLE_STOPPED
        if reported < len(self.nodes) and now - self._first_failure < patience:
            return None
        asked = [found for found in failures.values() if found.asked or found.report.regroups]
        return next(iter(strong or asked or failures.values()))

    def close(self, outcome: AttemptOutcome) -> Waiting[None]:
        """Tells all members that the attempt is over, and gives them time to read it."""
        self._send("outcome", outcome)
        if self._exchange is None or self._store is None:
            return
        deadline = self._around.now() + PATIENCE
        there = len(self._members())
        while self._around.now() < deadline and self._store.add(f"{self._number}/heard", 0) < there:
            yield TICK
        self._exchange.end()

    @property
    def _indices(self) -> range:
        return range(1, self._node.count)

    def _send(self, key: str, content: Start | AttemptOutcome) -> None:
        if self._store is not None:
            self._store.set(f"{self._number}/{key}", to_text(content))

    def _listen(self) -> None:
        """Reads what the members say. There may be several of one index: the one that works, and its replacement."""
        assert self._store is not None
        for index in self._indices:
            place = f"{self._number}/node/{index}"
            if not self._store.check([place]):
                continue
            for nonce in self._store.get(place).decode().split():
                heartbeat = self._heartbeat(place, nonce)
                before = self._heard.get((index, nonce))
                if before is None or heartbeat != before[0]:
                    self._heard[index, nonce] = heartbeat, self._around.now()

    def _heartbeat(self, place: str, nonce: str) -> Heartbeat:
        assert self._store is not None
        try:
            return Heartbeat.read(read(self._store, f"{place}/{nonce}") or {"nonce": nonce})
        except (ValueError, KeyError, TypeError, AttributeError):  # of a build whose messages have another form
            return Heartbeat(nonce)

    def _different(self, index: int, heartbeat: Heartbeat) -> str | None:
        """What a member does not have in common with node 0, in a sentence; None where there is nothing."""
        for fact, value in self._around.facts.items():
            if heartbeat.facts.get(fact) != value:
                return (
                    f"{fact} is {heartbeat.facts.get(fact)} on {titled(index, heartbeat.name)} and {value} on "
                    f"{self._node.title}; start all nodes from the same image and settings"
                )
        return None

    def _members(self) -> dict[int, Heartbeat]:
        """The members that are there now by index, the one that was heard last where there are several of one."""
        now, latest = self._around.now(), dict[int, tuple[float, Heartbeat]]()
        for (index, _), (found, heard) in self._heard.copy().items():
            if now - heard < SILENCE and heard > latest.get(index, (NEVER,))[0]:
                latest[index] = heard, found
        return {index: found for index, (_, found) in latest.items()}

    def _latest(self, index: int) -> tuple[Heartbeat, float]:
        """What the member that takes part has said last, and when."""
        return self._heard.get((index, self._started[index].nonce), (self._started[index], NEVER))


def check(around: Meeting) -> None:
    """Raises Stopped where this node was asked to leave, RunFinished where the run is finished, Superseded."""
    if around.asked():
        raise Stopped("stopped while waiting for the other nodes; nothing is lost")
    around.check_lock()
    if around.finished(lately=True):
        raise RunFinished


def lost(sentence: str) -> FailureReport:
    """That a node is gone, or cannot be reached."""
    return FailureReport(LostPeer.exit_code, sentence, follows=True)


def follows(report: FailureReport) -> bool:
    """Whether a failure follows from something else, which explains it better."""
    return report.follows or report.exit_code == Stopped.exit_code


def listed(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"node{'s' if len(indices) > 1 else ''} {shown}{more}"
