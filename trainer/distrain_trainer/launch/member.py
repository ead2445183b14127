"""The part in the rendezvous of any node but the first: it waits for the start, says how it goes, hears the outcome."""

from torch.distributed import DistError

from distrain_trainer.errors import FailureReport, LostPeer
from distrain_trainer.launch.coordinator import SILENCE, TICK, Waiting, check
from distrain_trainer.launch.messages import AttemptOutcome, Heartbeat, Start, to_text
from distrain_trainer.launch.node import titled
from distrain_trainer.launch.store import Store, read
from distrain_trainer.launch.surroundings import Meeting


class Member:
    """A node's part in the rendezvous with this number."""

    def __init__(self, around: Meeting, store: Store, number: int):
        self._around, self._store, self.number = around, store, number
        self._place = f"{number}/node/{around.node.index}"
        self._announced, self._beat, self._finished = False, 0, False
        self._failure: FailureReport | None = None
        self._asked = False
        self._start: Start | None = None
        self.outcome: AttemptOutcome | None = None
        self._exchange = around.exchange(self._send_and_listen)

    def wait_for_start(self) -> Waiting[Start | None]:
        """Waits for the coordinator's signal; None where the attempt is over before, or goes on without this node.

        Raises LostPeer, Stopped, RunFinished.
        """
        while self.outcome is None:
            check(self._around)
            self.check_coordinator()
            if self._start is not None and not self.left_out:
                return self._start
            yield TICK
        return None

    @property
    def left_out(self) -> bool:
        """Whether the attempt has begun without this node."""
        return self._start is not None and self._around.nonce not in self._start.nonces

    def check_coordinator(self) -> None:
        """Raises LostPeer where the coordinator is silent."""
        if self._around.now() - self._exchange.answered > SILENCE:
            raise LostPeer(f"lost {titled(0, self._start.coordinator if self._start else '')}")

    def fail(self, report: FailureReport, asked: bool) -> None:
        """Tells how this node's workers failed. asked: because this node was asked to stop."""
        self._failure, self._asked = report, asked
        self._exchange.wake()

    def finish(self) -> None:
        """Tells that this node's workers have finished."""
        self._finished = True
        self._exchange.wake()

    def close(self) -> None:
        """Sends a last heartbeat, where it is heard."""
        self._exchange.end()
        try:
            self._send_and_listen()
            self._store.add(f"{self.number}/heard", 1)
        except DistError:
            pass

    def _send_and_listen(self) -> None:
        self._beat += 1
        around = self._around
        heartbeat = Heartbeat(
            nonce=around.nonce,
            facts=dict(around.facts),
            name=around.node.name,
            beat=self._beat,
            failure=self._failure,
            asked=self._asked,
            finished=self._finished,
        )
        self._store.set(f"{self._place}/{around.nonce}", to_text(heartbeat))
        if not self._announced:
            self._store.append(self._place, f"{around.nonce} ")
            self._announced = True
        if self._start is None and (message := read(self._store, f"{self.number}/start")):
            self._start = Start.read(message)
        if self.outcome is None and (message := read(self._store, f"{self.number}/outcome")):
            self.outcome = AttemptOutcome.read(message)


def next_rendezvous(around: Meeting, store: Store, after: int) -> Waiting[int]:
    """Waits for a rendezvous that is newer than `after`; its number. Raises LostPeer, Stopped, RunFinished."""
    while True:
        check(around)
        try:
            number = int(store.get("rendezvous")) if store.check(["rendezvous"]) else after
        except DistError as error:
            raise LostPeer(f"lost node 0 ({error})") from None
        if number > after:
            return number
        yield TICK
