"""The progress of a run, for a person at a terminal or for a cluster's log.

On a terminal: a bar at the bottom, with sentences above it. Otherwise: sentences on stderr, and the lines of
metrics.jsonl on stdout, at most one per second, because a client reads the progress from the log.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from distrain_trainer.bars import Work
from distrain_trainer.console import clock, say, short
from distrain_trainer.storage.files import json_line

SECONDS_BETWEEN_LINES = 1.0
SHORTEST_BAR = 6
"""Columns that figures leave to the bar."""


class Progress:
    """The progress of a run from `start_step` to step `total`.

    terminal: whether to draw a bar; None for whether stdout and stderr both are terminals.
    """

    def __init__(self, total: int, start_step: int = 0, terminal: bool | None = None) -> None:
        self.total, self.start_step = total, start_step
        self._started = monotonic()
        self._printed = -math.inf
        self._held_back: Mapping[str, Any] | None = None
        self._epoch = self._loss = self._speed = ""
        self._bar: Bar | None = None
        self._evaluation: Work | None = None
        if terminal is None:
            terminal = sys.stdout.isatty() and sys.stderr.isatty()
        if terminal:
            self._bar = Bar(
                TextColumn(f"step {{task.completed:>{len(str(total))}}}/{{task.total}}"),
                BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True, force_terminal=True),
                refresh_per_second=4,
                expand=True,
            )
            self._task = self._bar.add_task("first step", total=total, completed=start_step)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, line: Mapping[str, Any]) -> None:
        """Shows a line of metrics.jsonl: a step, an evaluation or an event."""
        training = "loss" in line and "event" not in line
        if not self._bar:
            self._log(line, training)
        elif training:
            self._bar.update(self._task, completed=line["step"], description=self._describe(line))
        if "message" in line:
            say(f"step {line['step']}: {line['message']}")

    def evaluating(self, done: int, of: int) -> None:
        """Shows the progress of an evaluation, in micro-batches."""
        if self._bar:
            self._bar.update(self._task, description=f"evaluating {done}/{of}")
            return
        if self._evaluation is None or done <= self._evaluation.done:  # another one has begun
            self._evaluation = Work("evaluating", of, "micro-batches")
        self._evaluation.done = done
        if done < of and not self._evaluation.pace.left:
            self._evaluation.pace.take()
            say(self._evaluation.sentence)

    def say(self, text: str) -> None:
        """Prints one message, above the bar where there is one."""
        say(text)

    def close(self) -> None:
        """Prints the last step if it was held back, and stops the bar."""
        self._release()
        if self._bar:
            self._bar.update(self._task, description=self._fitted(f"took {clock(monotonic() - self._started)}"))
            self._bar.stop()

    def _log(self, line: Mapping[str, Any], training: bool) -> None:
        """Prints the line, unless it is one of many steps within a second; the newest of those is held back."""
        if training and line["step"] < self.total and monotonic() - self._printed < SECONDS_BETWEEN_LINES:
            self._held_back = line
            return
        if not training:
            self._release()
        self._print(line)
        self._printed, self._held_back = monotonic(), None

    def _release(self) -> None:
        if self._held_back:
            self._print(self._held_back)
            self._held_back = None

    def _print(self, line: Mapping[str, Any]) -> None:
        """The line with the number of steps in all, which whoever reads a log from its end would not see."""
        print(json_line({**line, "steps": self.total}), flush=True)

    def _describe(self, line: Mapping[str, Any]) -> str:
        loss, speed = line.get("loss"), line.get("tokens_per_second")
        self._epoch = f"epoch {line.get('epoch', 0):.2f}"
        self._loss = f"loss {loss:.4f}" if loss is not None else "loss not finite"
        self._speed = f"{short(speed)} tokens/s" if speed else ""
        seconds_per_step = (monotonic() - self._started) / max(line["step"] - self.start_step, 1)
        return self._fitted(f"{clock(seconds_per_step * (self.total - line['step']))} left")

    def _fitted(self, time: str) -> str:
        """The newest figures and a time, as many as leave the bar some room on one line of the terminal."""
        assert self._bar
        room = self._bar.console.width - len(f"step {self.total}/{self.total}  ") - SHORTEST_BAR
        wanted = (
            (self._epoch, self._loss, self._speed, time),
            (self._loss, self._speed, time),
            (self._loss, time),
            (time,),
        )
        found = ("  ".join(filter(None, parts)) for parts in wanted)
        return next((text for text in found if len(text) <= room), time)


def evaluation_sentence(line: Mapping[str, Any], headline: Sequence[str], new_best: str | None) -> str:
    """An evaluation line as `eval at step 120: loss 0.4123, accuracy 0.9120, f1 macro 0.8876; new best accuracy`.

    headline: metrics that are told beside the loss. new_best: the metric, if no evaluation before had a better one.
    """
    told = [(name, line.get(f"eval_{name}")) for name in dict.fromkeys(("loss", *headline))]
    values = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in told if value is not None]
    best = f"; new best {new_best.replace('_', ' ')}" if new_best else ""
    return f"eval at step {line['step']}: {', '.join(values)}{best}"
