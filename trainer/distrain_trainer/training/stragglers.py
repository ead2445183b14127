"""Processes that compute more slowly than the others: in a step all wait for the slowest, so one costs what all cost.

What is compared is the forward pass, in seconds per token of the process's own micro-batches. Where the weights are
sharded a forward pass waits for those of others, so all seem equally slow and nobody is named.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

import torch

RATIO = 1.5
"""Times the median of all processes from which a process is slow."""
STEPS = 50
"""Newest steps that are looked at."""
SLOW_STEPS = 45
"""Of them, those in which it has to be slow: not all, since any step of the others may be held up for once."""


@dataclass(frozen=True)
class Straggler:
    """A process that was slow in the newest `STEPS` steps. ratio: its time over the median of all, when it last was."""

    process: int
    node: str
    ratio: float

    @property
    def sentence(self) -> str:
        return (
            f"process {self.process} on {self.node} takes {self.ratio:.1f} x as long for a token as the others, in "
            f"the last {STEPS} steps, and all wait for it; look for a throttled GPU or other load on that machine"
        )

    @property
    def data(self) -> dict[str, Any]:
        return {"process": self.process, "node": self.node, "ratio": round(self.ratio, 3)}


@dataclass
class Stragglers:
    """What is known of the pace of each process. nodes: what each one's machine is called, by rank."""

    nodes: list[str]
    _ratios: dict[int, deque[float]] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)

    def see(self, paces: list[float]) -> Straggler | None:
        """The slowest process that has been slow for long enough. paces: of a step, seconds per token by rank; 0 of a
        process that had nothing to compute."""
        computing = [pace for pace in paces if pace > 0]
        if len(computing) < 2:
            return None
        usual, slow = median_low(computing), []
        for process, pace in enumerate(paces):
            if pace == 0:
                continue
            ratios = self._ratios.setdefault(process, deque(maxlen=STEPS))
            ratios.append(pace / usual)
            over = [ratio for ratio in ratios if ratio > RATIO]
            if len(ratios) == STEPS and len(over) >= SLOW_STEPS:
                slow.append(Straggler(process, self.nodes[process], over[-1]))
        return max(slow, key=lambda straggler: straggler.ratio, default=None)

    def is_news(self, straggler: Straggler) -> bool:
        """Whether this process was not told of before."""
        known = straggler.process in self._told
        self._told.add(straggler.process)
        return not known


class Stopwatch:
    """Takes the time of forward passes on a device. A GPU's are taken by its own clock, so that nothing waits."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._seconds, self._tokens = 0.0, 0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def forward(self, tokens: int) -> Iterator[None]:
        """Takes the time of a forward pass of so many tokens, padding included; of an empty micro-batch (0) none."""
        if not tokens:
            yield
            return
        self._tokens += tokens
        if self._cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def pace(self) -> float:
        """Seconds per token since the last call, 0 where there was nothing. On a GPU once it has done the step."""
        seconds = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
        found = seconds / self._tokens if self._tokens else 0.0
        self._seconds, self._tokens, self._events = 0.0, 0, []
        return found
