"""What a run's folder shows while the run goes on: its steps, and when each attempt began, loaded and ended."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LOOKED_EVERY = 0.1


class Seen(NamedTuple):
    """A look at the folder. at: seconds of a clock that only goes forward. attempt: its number, 0 before the first.
    over: whether it has ended. step: the newest, 0 before the first. loaded, start: the newest attempt that has loaded
    its model, and the step at which it starts."""

    at: float
    attempt: int
    over: bool
    step: int
    loaded: int
    start: int


class Recovery(NamedTuple):
    """What a fault cost. lost: steps that were done twice. over, met, loaded, stepped: seconds from the fault until its
    attempt ended, the next one began, had loaded its checkpoint, and took its first step."""

    lost: int
    over: float
    met: float
    loaded: float
    stepped: float


@dataclass
class Timeline:
    """The looks at a run's folder whose answer was new."""

    folder: Path
    looks: list[Seen] = field(default_factory=list)
    fault: float | None = None

    @property
    def step(self) -> int:
        return self.looks[-1].step if self.looks else 0

    def mark(self) -> None:
        """The fault comes now."""
        self.fault = time.monotonic()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Looks at the folder in a thread of its own meanwhile."""
        stop = threading.Event()

        def look() -> None:
            last: dict[str, Any] = {}
            over = False
            while not stop.wait(LOOKED_EVERY):
                attempt = _attempt(self.folder)
                if attempt.get("token") != last.get("token"):
                    over = False
                elif attempt != last:  # what is written again for the same attempt is its end
                    over = True
                last = attempt
                seen = Seen(time.monotonic(), attempt.get("attempt", 0), over, *_steps(self.folder))
                if not self.looks or seen[1:] != self.looks[-1][1:]:
                    self.looks.append(seen)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def recovery(self) -> Recovery | None:
        """What the fault cost, None where no attempt ended by it."""
        assert self.fault is not None
        number = max((look.attempt for look in self.looks if look.at <= self.fault), default=0)
        after = [look for look in self.looks if look.at > self.fault]
        met = next((look for look in after if look.attempt > number), None)
        loaded = next((look for look in after if look.loaded > number), None)
        if met is None or loaded is None:
            return None
        newest = max(look.step for look in self.looks if look.at < loaded.at)
        over = next(look for look in after if look.attempt > number or look.over)
        stepped = next((look for look in after if look.loaded > number and look.step > loaded.start), loaded)
        moments = (look.at - self.fault for look in (over, met, loaded, stepped))
        return Recovery(max(newest - loaded.start, 0), *moments)


def _attempt(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "attempt.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def _steps(folder: Path) -> tuple[int, int, int]:
    """The newest step, the newest attempt that has loaded its model, and the step at which that starts."""
    try:
        text = (folder / "metrics.jsonl").read_text()
    except OSError:
        return 0, 0, 0
    step, attempt, start = 0, 0, 0
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # it is being written
        found = json.loads(line)
        if "loss" in found:
            step = max(step, found["step"])
        elif found.get("event") in ("start", "resume"):
            attempt, start = found["attempt"], found["step"]
    return step, attempt, start
