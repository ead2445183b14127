"""Local files: found, divided into splits by their names, hashed, and opened as rows."""

import glob
import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distrain_trainer.data.readers import format_of, rows_of_file
from distrain_trainer.data.table import Source, tabulate
from distrain_trainer.errors import DataError, first_line
from distrain_trainer.settings.sections import Data

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Words in names of files and folders that say which split is in them, as datasets knows them."""
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def resolve_files(patterns: Sequence[str], setting: str) -> list[Path]:
    """The files that names and globs stand for, sorted; or the one folder of save_to_disk."""
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute patterns)
        if not matches:
            what = "matches no file" if glob.has_magic(pattern) else "is not there"
            raise DataError(f"{setting}: {pattern} {what} (looked in {Path.cwd()}); check the path")
        found |= set(matches) if path.exists() else {match for match in matches if match.is_file()}
    files = sorted(found)
    for folder in filter(Path.is_dir, files):
        if len(files) > 1:
            raise DataError(f"{setting}: {folder} is a folder among other files; name one folder, or only files")
        if not any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
            raise DataError(_not_saved(folder, setting))
        return files
    formats: dict[str, Path] = {}
    for file in files:
        formats.setdefault(format_of(file, setting), file)
    if len(formats) > 1:
        mixed = " and ".join(f"{kind} ({file})" for kind, file in formats.items())
        first = next(iter(formats.values()))
        raise DataError(f"{setting} mixes {mixed}; name files of one format, such as {first.parent}/*{first.suffix}")
    filled = [file for file in files if file.stat().st_size]
    if files and not filled:
        raise DataError(f"{setting}: {listed(files)} is empty; name files with rows")
    return filled


def _not_saved(folder: Path, setting: str) -> str:
    """What to name instead of a folder that save_to_disk did not write: files that are in it."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    usable = []
    for path in inside:
        try:
            format_of(path)
        except DataError:
            continue
        usable.append(path)
    if not usable:
        return f"{setting}: {folder} is a folder without data files that distrain can read; name the files"
    endings = list(
        dict.fromkeys("".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix for path in usable)
    )
    names = listed([path.relative_to(folder) for path in usable])
    deep = "" if usable[0].parent == folder else "**/"
    return (
        f"{setting}: {folder} is a folder that save_to_disk did not write; name the files in it ({names}), such as "
        f"{folder}/{deep}*{endings[0]}"
    )


def divide(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files by the split that their names say, without one as those of `train`; all as `train` if none differ.

    The last word of SPLIT_WORDS in a file's name counts, else that in the nearest of the folders in which the files
    differ: train.csv, data/test-00000-of-00002.parquet, dev/a.jsonl.
    """
    parents = [file.absolute().parent.parts for file in files]
    shared = 0
    for names in zip(*parents, strict=False):
        if len(set(names)) > 1:
            break
        shared += 1
    splits: dict[str, list[Path]] = {}
    named = [_split_of([file.name, *reversed(parts[shared:])]) for file, parts in zip(files, parents, strict=True)]
    if len(set(named)) < 2:
        return {"train": list(files)}
    for file, split in zip(files, named, strict=True):
        splits.setdefault(split or "train", []).append(file)
    return splits


def _split_of(names: Sequence[str]) -> str | None:
    for name in names:
        words = [word for word in re.split(r"[-._ 0-9]+", name.lower()) if word in SPLIT_OF]
        if words:
            return SPLIT_OF[words[-1]]
    return None


def listed(files: Sequence[Path]) -> str:
    """The files' names, the first three of many."""
    shown = ", ".join(str(file) for file in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"


def _parts(files: Sequence[Path]) -> list[Path]:
    """The files that hold the content: those of a save_to_disk folder in place of the folder."""
    if len(files) == 1 and files[0].is_dir():
        inside = sorted(path for path in files[0].rglob("*") if path.is_file())
        return [path for path in inside if not path.name.startswith("cache-")]
    return list(files)


def describe(files: Sequence[Path]) -> str:
    """`docs.jsonl, 3.1 MB`."""
    size = sum(file.stat().st_size for file in _parts(files))
    unit, divisor = next(
        (u, d) for u, d in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if size >= d or d == 1
    )
    name = files[0].name if len(files) == 1 else f"{len(files)} files from {files[0].name}"
    return f"{name}, {size / divisor:.{0 if divisor == 1 else 1}f} {unit}"


def hash_files(files: Sequence[Path]) -> str:
    """64 hex digits over the bytes of the files in order, whatever they are called."""
    total = hashlib.sha256()
    for path in _parts(files):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def open_files(files: Sequence[Path], data: Data, wanted: Collection[str], folder: Path) -> Source | dict[str, Source]:
    """The rows of files of one format, or the splits that save_to_disk wrote into the one folder.

    wanted: columns that may be used; others are not read from files. folder: where the rows are kept.
    Raises DataError that names the file and line at fault.
    """
    if files[0].is_dir():
        saved = _saved(files[0])
        if isinstance(saved, dict):
            return {name: _whole(f"split '{name}' of {files[0]}", rows) for name, rows in saved.items()}
        return _whole(str(files[0]), saved)
    if format_of(files[0]) == "parquet":
        return _parquet(files, wanted, folder)
    return tabulate(files, wanted, data, folder)


def _whole(name: str, rows: "Dataset") -> Source:
    return Source(name, rows, tuple(rows.column_names), {})


def _saved(folder: Path) -> "Dataset | dict[str, Dataset]":
    import datasets

    try:
        saved: Dataset | DatasetDict = datasets.load_from_disk(str(folder))
    except IndexError as error:
        raise DataError(f"{folder} has a split without rows; write it again with save_to_disk") from error
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"{folder} cannot be read: {first_line(error)}; write it again with save_to_disk") from error
    plain = saved.with_format(None)  # a format such as torch is saved too
    return dict(plain) if isinstance(plain, dict) else plain


def _parquet(files: Sequence[Path], wanted: Collection[str], folder: Path) -> Source:
    """The columns of Parquet files that may be used, with the types that the files give them."""
    import datasets
    import pyarrow as pa
    from pyarrow.parquet import read_schema

    seen: dict[str, None] = {}
    lacking: dict[str, Path] = {}
    headers: dict[Path, list[str]] = {}
    for file in files:
        try:
            headers[file] = read_schema(file).names
        except (ValueError, OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}; correct or remove it") from error
        twice = [name for name in set(headers[file]) & set(wanted) if headers[file].count(name) > 1]
        if twice:
            raise DataError(f"{file} has column '{min(twice)}' twice; rename one of them")
        seen |= dict.fromkeys(headers[file])
    for name in seen:
        if without := [file for file in files if name not in headers[file]]:
            lacking[name] = without[0]
    shared = [name for name in seen if name not in lacking]
    names = [name for name in shared if name in wanted] or shared[:1]  # without a column there would be no rows
    if not names:
        raise DataError(f"{listed(files)} have no column that is in each of them; name files with the same columns")
    try:
        rows = datasets.Dataset.from_parquet(
            [glob.escape(str(file.absolute())) for file in files], cache_dir=str(folder), columns=names
        )
    except Exception as error:  # datasets wraps what its readers raise, which is of many kinds
        for file in files:
            for _ in rows_of_file(file, {}, names):
                pass
        raise DataError(f"{listed(files)} cannot be read: {_root(error)}; correct the files") from error
    if not len(rows):
        raise DataError(f"{listed(files)} has no rows; name files with rows")
    return Source(listed(files), rows, tuple(seen), lacking, tuple(files))


def _root(error: BaseException) -> str:
    """What the innermost cause says, which is where datasets' own errors begin."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
