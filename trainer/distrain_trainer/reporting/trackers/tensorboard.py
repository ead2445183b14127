"""TensorBoard: event files in `tensorboard/` of the run's folder.

TensorBoard reads the files of a folder in the order of their names, and a file can say that what came before it from a
step on no longer counts. So a resumed run begins a new file there. A row is one record, which is there whole or not.
"""

import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from distrain_trainer.reporting.trackers.api import EPOCH, NOTHING, Results, Row, Status, TrackedRun, flattened

FOLDER = "tensorboard"
CLASSES = 60
"""Most classes of a confusion matrix that is shown as a table."""


class TensorBoard:
    """The event files of a run."""

    def __init__(self, run: TrackedRun):
        self._run, self._folder = run, run.folder / FOLDER
        self._writer: RecordWriter | None = None

    def open(self, kept: int) -> int:
        """Begins a file that takes the place of all from its first step on."""
        if self._writer is not None:
            self._writer.close()
        self._folder.mkdir(exist_ok=True)
        files = sorted(self._folder.glob("events.out.tfevents.*.distrain"))
        first = min(newest_step(files), kept + 1)
        number = max(time.time(), _number(files[-1]) + 1 if files else 0)  # later than all, whatever clocks say
        path = self._folder / f"events.out.tfevents.{number:017.6f}.{platform.node()}.distrain"
        self._writer = RecordWriter(path.open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        if first != NOTHING:
            self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        settings = {k: v for k, v in flattened(self._run.settings).items() if isinstance(v, bool | int | float | str)}
        self._write(Event(step=max(first, 0), summary=hparams_pb(settings, trial_id=self._run.id)))
        about = yaml.safe_dump({"settings": self._run.settings} | self._run.facts, sort_keys=False)
        self._text("settings", f"```yaml\n{about}```", max(first, 0))
        self._writer.flush()
        return first - 1 if first != NOTHING else NOTHING

    def send(self, rows: Sequence[Row]) -> None:
        assert self._writer is not None
        for row in rows:
            self._scalars(row.values, row.step)
        self._writer.flush()

    def finish(self, status: Status, results: Results | None) -> None:
        assert self._writer is not None
        if results is not None:
            self._scalars(results.metrics, results.step)
            if results.matrix and len(results.labels) <= CLASSES:
                self._text("confusion matrix", _matrix(results), results.step)
            for number, answer in enumerate(results.answers, 1):
                parts = [f"**{name}**\n\n```\n{text}\n```" for name, text in answer.items()]
                self._text(f"answers/{number}", "\n\n".join(parts), results.step)
        self._writer.close()
        self._writer = None

    def _scalars(self, values: dict[str, float], step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _text(self, name: str, text: str, step: int) -> None:
        self._write(Event(step=step, summary=text_pb(name, text)))

    def _write(self, event: Event) -> None:
        assert self._writer is not None
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


def newest_step(files: Sequence[Path]) -> int:
    """The newest step that event files show, `NOTHING` where they show none. files: oldest first."""
    limit = sys.maxsize
    for file in reversed(files):
        newest, began = NOTHING, sys.maxsize
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.session_log.status == SessionLog.START:
                began = event.step
            if any(value.tag == EPOCH for value in event.summary.value):
                newest = event.step
        if newest != NOTHING:
            return min(newest, limit)
        limit = min(limit, began - 1)
    return NOTHING


def _number(file: Path) -> float:
    """When a file was begun, by its name."""
    return float(".".join(file.name.split(".")[3:5]))


def _matrix(results: Results) -> str:
    """A confusion matrix as Markdown: a row per true class."""
    labels = [label.replace("|", "\\|") for label in results.labels]
    lines = [["true \\ predicted", *labels], ["---"] * (len(labels) + 1)]
    lines += [[label, *map(str, row)] for label, row in zip(labels, results.matrix, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
