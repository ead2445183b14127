"""metrics.jsonl: what a run writes about its steps, one JSON object a line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from distrain_trainer.storage.files import json_line, write_text


class MetricsLog:
    """Appends to metrics.jsonl, one JSON object a line, each readable as soon as `write` returns.

    A train line holds step, epoch, loss, learning_rate, grad_norm, samples, tokens, tokens_per_second,
    padding_fraction, step_seconds, data_seconds, sync_seconds, memory_bytes, gpu_utilization, mfu (null where
    unknown); an evaluation line step, epoch, eval_*; an event line step, event and what else there is to say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            # What a kill left after the last line break would be glued to the next line.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, line: Mapping[str, object]) -> bool:
        """Appends one line. Numbers that are not finite become null, since JSON has none.

        Returns False where the disk does not take it; it then waits in memory and goes out with a later line.
        """
        self._waiting += (json_line(line) + "\n").encode("ascii")
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError:
            return False
        return True

    def cut_back(self, step: int) -> None:
        """Forgets every line after `step`, so that a run resumed there writes each step once."""
        self._file.close()
        kept = [line for line in read_metrics(self.path) if line.get("step", 0) <= step]
        write_text(self.path, "".join(json_line(line) + "\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict]:
    """The lines of metrics.jsonl; none where there is no file. A torn line, left by a kill or a full disk, is
    dropped."""
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
