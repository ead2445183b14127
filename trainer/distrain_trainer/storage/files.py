"""Files that are written atomically and durably: a reader never sees half of one.

New content is written to a temporary file beside the target, synced and renamed.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path


def json_line(line: Mapping[str, object]) -> str:
    """One line of JSON, keys in the order given, non-finite numbers as null. ASCII only, so that any log takes it."""
    return json.dumps(to_json(line), allow_nan=False)


def to_json(value: object) -> object:
    """The same value in types that JSON has: NumPy's numbers as Python's, tuples as lists, non-finite numbers as None.

    Raises TypeError for any other type.
    """
    match value:
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case None | str() | bool():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes an indented JSON file with sorted names, atomically and durably. Raises OSError.

    Innermost lists stay on one line, so that a confusion matrix reads as one.
    """
    write_text(path, _indented(to_json(content), "") + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically and durably: a reader, even after a crash, finds the old file or the new one.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    # Half a surrogate pair is not UTF-8; as an escape it is at least valid JSON.
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Makes a file's content durable. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a folder's entries durable: which files it holds, under which names. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_or_copy(file: Path, target: Path) -> None:
    """Gives a file a second name, or makes a durable copy where the disks have no such links. Raises OSError."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
        sync_file(target)


def bytes_of(paths: Iterable[Path]) -> int:
    """Bytes that files, and folders with all that is in them, take on the disk; a file with several names once.

    What disappears meanwhile does not count.
    """
    taken: dict[tuple[int, int], int] = {}
    for path in paths:
        for entry in (path, *path.rglob("*")):
            with suppress(OSError):
                found = entry.lstat()
                taken[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(taken.values())


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
