"""The steps of metrics.jsonl, as trackers take them."""

import json
from pathlib import Path
from typing import Any

from distrain_trainer.reporting.trackers.api import EPOCH, Row

CHUNK = 256 * 1024
"""Bytes that are read at a time, some hundreds of steps: a tracker that is behind costs no more memory than this."""
NOT_SHOWN = ("step", "epoch", "straggler")


class Rows:
    """Reads whole steps from metrics.jsonl while it grows.

    The lines of a step (training, then evaluation) become one row, which is whole when a line of a later step follows.
    """

    def __init__(self, path: Path, after: int):
        """after: the newest step that is passed over."""
        self._path, self._after = path, after
        self._position, self._rest = 0, b""
        self._step, self._values = after, dict[str, float]()

    def read(self, last: bool = False) -> list[Row] | None:
        """The next steps that are whole, None where the file has no more for now.

        last: nothing will be added to the file, so that its newest step is whole too. Raises OSError.
        """
        with self._path.open("rb") as file:
            file.seek(self._position)
            found = file.read(CHUNK)
        self._position += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        rows = [row for line in lines if (row := self._add(line))]
        if not found and last and self._values:
            rows.append(self._row())
        return rows if rows or found else None

    def _add(self, text: bytes) -> Row | None:
        """Takes a line in; the step before, which is whole now, where it begins a new one."""
        try:
            line = json.loads(text)
        except ValueError:  # torn by a kill
            return None
        values = named(line) if isinstance(line, dict) else {}
        if not values or line["step"] <= self._after:
            return None
        row = self._row() if self._values and line["step"] > self._step else None
        self._step = line["step"]
        self._values |= values
        return row

    def _row(self) -> Row:
        epoch = self._values.pop(EPOCH)
        row = Row(self._step, {**self._values, EPOCH: epoch})
        self._values = {}
        return row


def named(line: dict[str, Any]) -> dict[str, float]:
    """The values of a line by the names that people of trackers expect, empty of an event: `loss` is `train/loss`,
    `eval_loss` is `eval/loss`. What is not a finite number is left out."""
    if "event" in line or "epoch" not in line:
        return {}
    values = {
        f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}": value
        for name, value in line.items()
        if name not in NOT_SHOWN and value is not None
    }
    return values | {EPOCH: line["epoch"]}
