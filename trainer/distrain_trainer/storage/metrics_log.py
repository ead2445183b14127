"""metrics.jsonl: one JSON object a line for each step, evaluation and event of a run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from distrain_trainer.storage.files import json_line, write_text


class MetricsLog:
    """Appends lines to metrics.jsonl, each readable as soon as `write` returns.

    A train line holds step, epoch, loss, learning_rate, grad_norm, samples, tokens, tokens_per_second,
    padding_fraction, step_seconds, data_seconds, sync_seconds, memory_bytes, gpu_utilization and mfu (null if unknown),
    straggler (the slow process, null if there is none) and nodes (how many took part); an evaluation line step, epoch
    and eval_*; an event line step, event and the event's own values.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            # A kill can leave half a line at the end, to which the next line would be appended.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: Mapping[str, object]) -> bool:
        """Appends one line. Non-finite numbers become null, since JSON has none.

        Returns False if the disk refused it; the line then stays in memory and is written with a later one.
        """
        self._pending += (json_line(line) + "\n").encode("ascii")
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError:
            return False
        return True

    def cut_back(self, step: int) -> None:
        """Drops every line after `step`, so that a run resumed there writes each step once. Raises OSError.

        At step 0 the events alone stay: an evaluation before the first step is made again.
        """
        self._file.close()
        kept = [line for line in read_metrics(self.path) if line.get("step", 0) <= step and (step or "event" in line)]
        write_text(self.path, "".join(json_line(line) + "\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, none if there is no file. Torn lines, left by a kill or a full disk, are skipped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
