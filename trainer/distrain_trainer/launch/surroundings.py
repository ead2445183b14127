"""What a supervisor works with: a clock, the store, the run's folder and the workers. The tests have their own."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from distrain_trainer.errors import FailureReport
from distrain_trainer.launch.messages import Start
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.store import Exchange, Store
from distrain_trainer.storage.attempts import Attempts


class RunFinished(Exception):
    """The run's folder says that the run is finished: there is nobody left to wait for."""


class RunningWorkers(Protocol):
    """The workers of an attempt on this node."""

    def over(self) -> bool:
        """Whether nobody is left."""

    def kill(self) -> None:
        """Ends what is left of them at once."""

    def cause(self) -> FailureReport | None:
        """Why they have failed, None where none of those that have ended has."""

    def regroup(self, wanted: bool) -> None:
        """Asks them to leave where they publish the next checkpoint, or not to."""

    def stacks(self) -> str:
        """Where each of them was when one was found to hang, empty where none was."""


class Meeting(Protocol):
    """What a node needs to meet the others.

    node: this one. facts: what must be the same on all nodes. nonce: tells this process from the one that took its
    place.
    """

    node: Node
    facts: Mapping[str, Any]
    nonce: str

    def now(self) -> float:
        """Seconds of a clock that only goes forward."""

    def asked(self) -> bool:
        """Whether this node was asked to leave."""

    def say(self, text: str) -> None: ...

    def exchange(self, act: Callable[[], Any]) -> Exchange:
        """Does `act` each second from now on."""

    def free_port(self) -> int:
        """A port for the workers' process group."""

    def check_lock(self) -> None:
        """Raises Superseded where another process has taken the folder over, as of some seconds ago."""

    def finished(self, lately: bool = False) -> bool:
        """Whether the run has come to the end of the schedule that is asked for. Raises DistrainError.

        lately: an answer that is some seconds old will do.
        """


class Surroundings(Meeting, Protocol):
    """run: the run's name, by which its nodes know each other. by_hand: a person has started it, so that earlier
    failures do not count. max_wait: seconds for which a volume that does not answer is waited for. min_nodes: nodes
    with which a run that has begun goes on, None where it waits for all. patience: seconds for which the others are
    waited for before that.
    """

    run: str
    by_hand: bool
    max_wait: float
    min_nodes: int | None
    patience: float

    def warn(self, text: str) -> None: ...

    def time(self) -> float:
        """Seconds since 1970."""

    def tell_waiting(self, failure: FailureReport, since: float | None) -> None:
        """Tells programs that read the log what the run waits for before its next attempt. since: when that began, in
        seconds since 1970; None: now."""

    def connect(self) -> Store:
        """Node 0's store. Raises LostPeer."""

    def attempts(self) -> Attempts:
        """What the run's folder says of its attempts. Raises VolumeError, VolumeLost."""

    def begin_attempt(self, after: Attempts, nodes: list[int]) -> Attempts:
        """Records that an attempt begins. after: what was found before. nodes: indices of those that take part. Raises
        DistrainError; Superseded where another process has begun one since."""

    def end_attempt(self, begun: Attempts, report: FailureReport | None) -> None:
        """Records how an attempt ended: with a failure that counts, or excused (None)."""

    def keep_report(self, attempt: int, report: FailureReport, workers: RunningWorkers) -> None:
        """Leaves in the run's folder how this node's workers failed."""

    def holds_run(self) -> bool:
        """Whether the folder holds a run to continue; one whose replacement was interrupted is put back before that.
        Raises DistrainError."""

    def check_writable(self) -> None:
        """Makes sure that this node can write into the run's folder. Raises VolumeError, VolumeLost."""

    def workers(self, start: Start) -> AbstractContextManager[RunningWorkers]:
        """Starts the workers of an attempt; none is left afterwards."""
