"""The files that a run writes about itself: metrics.jsonl line by line, and whole JSON files at once.

A reader never sees half a file: what is not appended is written beside its place, made durable and renamed.
"""

import json
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Self


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


def json_line(line: Mapping[str, object]) -> str:
    """One line of JSON, keys in the order given, numbers that are not finite as null. ASCII: fit for any log."""
    return json.dumps(plain(line), allow_nan=False)


def plain(value: object) -> object:
    """The same value in what JSON knows: NumPy's numbers as Python's, tuples as lists, not finite as None."""
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case None | str() | bool():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes an indented JSON file, names sorted, at once: a reader finds the old file or the new one.

    Innermost lists stay on one line, so that a confusion matrix reads as one.
    """
    write_text(path, _indented(plain(content), "") + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file at once and durably: a reader, also after a crash, finds the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    # Half a surrogate pair is no UTF-8; as an escape it is at least valid JSON.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes durable which files a folder holds and what they are called."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _indented(value: object, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and value:
        items = [f"{_indented(key, inner)}: {_indented(item, inner)}" for key, item in sorted(value.items())]
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [_indented(item, inner) for item in value]
    else:
        return json.dumps(value, ensure_ascii=False)
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n" + ",\n".join(inner + item for item in items) + f"\n{margin}{last}"
