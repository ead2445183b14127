"""One tracker is fed from metrics.jsonl, whatever state it is in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Literal

from distrain_trainer.errors import Superseded
from distrain_trainer.reporting.trackers.api import Results, Status, TrackedRun, Tracker
from distrain_trainer.reporting.trackers.choice import make
from distrain_trainer.reporting.trackers.rows import Rows
from distrain_trainer.secrets import known_secrets, redacted_text
from distrain_trainer.storage.attempts import Fence

LOOK_EVERY = 1.0
"""Seconds between two looks for new steps."""
RETRY_AFTER = 30.0
"""Seconds before a tracker that has failed is tried again."""
LONGEST_REASON = 200

Doing = Literal["sending", "failing", "done"]
PATIENCE: dict[Status, float] = {"finished": 60.0, "stopped": 5.0, "out_of_time": 20.0, "failed": 20.0}
"""Seconds that the feeds get at the end to send what is left. A run that was stopped goes on, and a pod has little
time."""


@dataclass
class Feed:
    """Sends a run's steps to one tracker, from a thread.

    kept: steps up to this one will not be computed again. fence: of the attempt. complain: takes the tracker's name and
    why it does not take the run, from that thread, once. sent: steps so far.
    """

    name: str
    run: TrackedRun
    kept: int
    fence: Fence
    complain: Callable[[str, str], None]
    sent: int = field(default=0, init=False)
    complained: bool = field(default=False, init=False)
    _status: Status | None = field(default=None, init=False)
    _ended: Event = field(default_factory=Event, init=False)
    _doing: Doing = field(default="sending", init=False)

    def __post_init__(self) -> None:
        self.thread = Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begins to send what there is and what comes."""
        self.thread.start()

    def end(self, status: Status) -> None:
        """Says that no more steps come."""
        self._status = status
        self._ended.set()

    @property
    def done(self) -> bool:
        """Whether the tracker has everything."""
        return self._doing == "done"

    @property
    def worth_waiting_for(self) -> bool:
        """Whether a feed that was told of the end may be getting on with it."""
        return self._doing == "sending"

    def give_up(self) -> None:
        """Complains where the tracker has not everything, and nobody knows yet."""
        if not self.done:
            self._complain("it is too slow, or does not answer")

    def _work(self) -> None:
        tracker: Tracker | None = None
        while not self.done:
            try:
                self._doing = "sending"
                tracker = tracker or make(self.name, self.run)
                self._pass_on(tracker)
                self._doing = "done"
            except Superseded:
                self._doing = "done"
            except (Exception, SystemExit) as error:  # whatever a package meets, the run goes on
                self._complain(str(error) or type(error).__name__)
                self._doing = "failing"
                if self._ended.wait(RETRY_AFTER):
                    return

    def _pass_on(self, tracker: Tracker) -> None:
        """Sends what the tracker lacks until the run has ended, and then the results."""
        rows = Rows(self.run.folder / "metrics.jsonl", tracker.open(self.kept))
        while True:
            status = self._status  # before the file is read, which then has all that was written before
            self.fence.check(lately=True)
            found = rows.read(last=status == "finished")
            if found:
                tracker.send(found)
                self.sent += len(found)
            elif found is None and status:
                break
            elif found is None:
                self._ended.wait(LOOK_EVERY)
        tracker.finish(status, Results.read(self.run.folder, status))

    def _complain(self, reason: str) -> None:
        if not self.complained:
            self.complained = True
            first = redacted_text(reason, known_secrets()).strip().splitlines()[0]
            self.complain(self.name, first[:LONGEST_REASON])
