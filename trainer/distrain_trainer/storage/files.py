"""Files written at once and durably: a reader never sees half of one.

What is new is written beside its place, made durable and renamed.
"""

import json
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path


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
