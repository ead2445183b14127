"""Local files as rows: found, hashed, opened as datasets, and searched for the fault where that fails."""

import glob
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from distrain_trainer.data.conversations import as_text
from distrain_trainer.errors import DataError
from distrain_trainer.hub.errors import first_line
from distrain_trainer.settings.sections import Data

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
CSV_OPTIONS = {"keep_default_na": False, "na_values": [""]}
"""Only an empty field is null: None, NA and null are words that a text or a label may well be."""


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
            raise DataError(
                f"{setting}: {folder} is a folder that save_to_disk did not write; name the files in it, such as "
                f"{folder}/*.jsonl"
            )
        return files
    formats = {_format(file, setting) for file in files}
    if len(formats) > 1:
        raise DataError(f"{setting} mixes {' and '.join(sorted(formats))} files; name files of one format")
    filled = [file for file in files if file.stat().st_size]
    if files and not filled:
        raise DataError(f"{setting}: {listed(files)} is empty; name files with rows")
    return filled


def _format(file: Path, setting: str) -> str:
    """The reader of a file, by its ending: csv, json, parquet or text."""
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    kind = FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and file.suffix == ".gz"):
        raise DataError(
            f"{setting}: {file} ends in none of {', '.join(FORMATS)} (all but .parquet also with .gz); convert it"
        )
    return kind


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


def open_files(files: Sequence[Path], data: Data, folder: Path, exact: bool = False) -> "Dataset | dict[str, Dataset]":
    """The rows of files of one format, or what save_to_disk wrote into the one folder.

    folder: where datasets keeps what it makes of them. exact: values of JSON files are the texts of `as_text`.
    Raises DataError that names the file and line at fault.
    """
    import datasets

    if files[0].is_dir():
        try:
            saved: Dataset | DatasetDict = datasets.load_from_disk(str(files[0]))
        except IndexError as error:
            raise DataError(f"{files[0]} has a split without rows; write it again with save_to_disk") from error
        except (ValueError, OSError, KeyError) as error:
            raise DataError(
                f"{files[0]} cannot be read: {first_line(error)}; write it again with save_to_disk"
            ) from error
        plain = saved.with_format(None)  # a format such as torch is saved too
        return dict(plain) if isinstance(plain, dict) else plain
    kind = _format(files[0], "data.files")
    try:
        if kind == "text":
            return datasets.Dataset.from_generator(
                _texts,
                features=datasets.Features({"text": datasets.Value("string")}),
                gen_kwargs={"files": list(files), "unit": data.text_unit},
                cache_dir=str(folder),
            )
        # Not load_dataset, which reports each use of it over the network, for local files too.
        names: Any = [glob.escape(str(file.absolute())) for file in files]
        if kind == "csv":
            rows = datasets.Dataset.from_csv(names, sep=_separator(files[0]), cache_dir=str(folder), **CSV_OPTIONS)
        elif kind == "json" and exact:
            columns = tuple(dict.fromkeys(name for row in _objects(files) for name in row))
            rows = datasets.Dataset.from_generator(
                _values,
                features=datasets.Features({name: datasets.Value("string") for name in columns}),
                gen_kwargs={"files": list(files), "columns": columns},
                cache_dir=str(folder),
            )
        elif kind == "json":
            rows = datasets.Dataset.from_json(names, cache_dir=str(folder), parse_agent_traces=False)
        else:
            rows = datasets.Dataset.from_parquet(names, cache_dir=str(folder))
        if "__index_level_0__" in rows.column_names and kind == "csv":
            raise ValueError("rows have more fields than the header")
        if kind == "json":
            rows.data.table.validate(full=True)  # nothing else looks whether strings are UTF-8
    except (datasets.exceptions.DatasetsError, ValueError, OSError, EOFError, StopIteration) as error:
        _blame(files, kind, data.text_unit)
        raise DataError(f"{listed(files)} cannot be read: {_root(error)}; correct the rows") from error
    return rows


def _separator(file: Path) -> str:
    return "\t" if ".tsv" in file.suffixes[-2:] else ","


def _root(error: BaseException) -> str:
    """What the innermost cause says, which is where datasets' own errors begin."""
    from datasets.table import CastError

    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CastError):
        differing = sorted(set(error.table_column_names) ^ set(error.requested_column_names))
        if differing:
            return f"columns that not all of them have: {', '.join(map(repr, differing))}"
    return first_line(error)


def _opened(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _texts(files: Sequence[Path], unit: str) -> Iterator[dict[str, str]]:
    """The rows of .txt files: lines, paragraphs between empty lines, or whole files."""
    for path in files:
        with _opened(path) as file:
            if unit == "document":
                yield {"text": file.read()}
            elif unit == "line":
                yield from ({"text": line.removesuffix("\n")} for line in file)
            else:
                for filled, lines in groupby(file, key=lambda line: bool(line.strip())):
                    if filled:
                        yield {"text": "".join(lines).removesuffix("\n")}


def _values(files: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, str | None]]:
    """The rows of JSON files, each value as a text."""
    for row in _objects(files):
        yield {name: as_text(row.get(name)) for name in columns}


def _objects(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows of JSON files; DataError where one is no object, or where there are none."""
    found = None
    for file in files:
        for row in _scan_json(file):
            if not isinstance(row, dict):
                raise DataError(
                    f"{file} holds {type(row).__name__} instead of objects in curly brackets; correct its rows"
                )
            found = row
            yield row
    if found is None:
        raise DataError(f"{listed(files)} has no rows; name files with rows")


def _blame(files: Sequence[Path], kind: str, unit: str) -> None:
    """Reads each file alone and raises DataError for the first that cannot be read, or when there are no rows."""
    count = 0
    for file in files:
        try:
            count += sum(1 for _ in _scan(file, kind, unit))
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}; correct or remove it") from error
    if not count:
        raise DataError(f"{listed(files)} has no rows; name files with rows")


def _scan(file: Path, kind: str, unit: str) -> Iterator[object]:
    """Yields something for each row or block of rows of a file; raises for what no reader takes."""
    if kind == "text":
        yield from _texts([file], unit)
    elif kind == "json":
        yield from _scan_json(file)
    elif kind == "csv":
        import pandas

        for frame in pandas.read_csv(file, sep=_separator(file), chunksize=10_000, **CSV_OPTIONS):
            if not isinstance(frame.index, pandas.RangeIndex):
                raise ValueError("rows have more fields than the header")
            yield from frame.index
    else:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(file) as parquet:
            yield from parquet.iter_batches()


def _scan_json(file: Path) -> Iterator[Any]:
    """Each row of JSON lines or of one JSON array; DataError names the line at fault."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as stream:
        first = next((line for line in stream if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
        stream.seek(0)
        if first.lstrip().startswith(b"["):
            yield from json.load(stream)
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{file}, line {number}: byte {error.start} is not UTF-8; correct the line") from error
            except json.JSONDecodeError as error:
                what = f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
                raise DataError(f"{file}, line {number}: {what}; correct the line") from error
            if not isinstance(row, dict):
                found = type(row).__name__
                raise DataError(
                    f"{file}, line {number}: {found} instead of an object in curly brackets; correct the line"
                )
            yield row
