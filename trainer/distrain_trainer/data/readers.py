"""Local files row by row: each row with its line, and a sentence with the place where a file cannot be read.

Values are as they stand in the file: those of CSV are texts, those of JSON whatever JSON says. What type a column has
is for whoever uses it to decide.
"""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TextIO

from distrain_trainer.errors import DataError, first_line

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""What separates fields, by its name in `data.delimiter`."""

Row = dict[str, Any]
Refuse = Callable[[DataError], None]


def refuse_all(error: DataError) -> None:
    """Raises the error of a row."""
    raise error


@dataclass
class Dropped:
    """Rows that were left out. first: why the first one was."""

    count: int = 0
    first: str = ""

    def __call__(self, error: DataError) -> None:
        self.first = self.first or str(error)
        self.count += 1

    @property
    def sentence(self) -> str:
        """`3 bad rows are left out, the first: ...`; empty without one."""
        rows = f"{self.count:,} bad row{'s are' if self.count > 1 else ' is'} left out"
        return f"{rows}, the first: {self.first}" if self.count else ""


def format_of(file: Path, setting: str = "data.files") -> str:
    """The reader of a file, by its ending: csv, json, parquet or text."""
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    kind = FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and file.suffix == ".gz"):
        raise DataError(
            f"{setting}: {file} ends in none of {', '.join(FORMATS)} (all but .parquet also with .gz); convert it"
        )
    return kind


def rows_of_file(
    file: Path,
    seen: dict[str, None],
    wanted: Collection[str] | None = None,
    delimiter: str | None = None,
    unit: str = "paragraph",
    encoding: str | None = None,
    refuse: Refuse = refuse_all,
) -> Iterator[tuple[str, Row]]:
    """(`line 3`, the row) of each row of a file; `row 3` where rows have no lines of their own.

    seen: gets the names of all columns that the file turns out to have. wanted: columns that a row needs to hold; it
    may hold others too. None for all. delimiter: of CSV, a name in DELIMITERS. unit: of text files. encoding:
    None for UTF-8. refuse: takes the error of a row that cannot be read while the next one can, and raises it or not.
    Raises DataError that names file and line for what cannot be read.
    """
    kind = format_of(file)
    try:
        if kind == "csv":
            separator = delimiter or ("tab" if ".tsv" in file.suffixes[-2:] else "comma")
            yield from _csv_rows(file, seen, wanted, separator, encoding, refuse)
        elif kind == "json":
            for where, row in _json_rows(file, encoding, refuse):
                seen.update(dict.fromkeys(row))
                yield where, row
        elif kind == "text":
            seen["text"] = None
            yield from ((where, {"text": text}) for where, text in _texts(file, unit, encoding))
        else:
            yield from _parquet_rows(file, seen, wanted)
    except UnicodeDecodeError as error:
        raise encoding_fault(file, encoding) from error
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}; correct or remove it") from error


def encoding_fault(file: Path, encoding: str | None = None) -> DataError:
    """Says on which line a file is not UTF-8, and what it may be instead. encoding: that was asked for."""
    if encoding is not None:
        return DataError(f"{file} is not {encoding}, as data.encoding says; set it to the file's own encoding")
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                return DataError(f"{file} is UTF-16; {_converted(file, 'UTF-16')}")
            if told := not_utf8(line):
                return _line_fault(file, number, told)
    return DataError(f"{file} is not UTF-8; convert it")


def _line_fault(file: Path, number: int, told: str) -> DataError:
    return DataError(f"{file}, line {number}: {told}; {_converted(file, 'WINDOWS-1252')}")


def not_utf8(line: bytes) -> str | None:
    """Which byte of a line is not UTF-8, and what stands there if it is Western European; None where all of it is."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        around = line[max(error.start - 12, 0) : error.start + 12].decode("cp1252", errors="replace")
        return f"byte {error.start + 1} is not UTF-8, as Windows-1252 or latin-1 it reads {around.strip()!r}"
    return None


def _converted(file: Path, encoding: str) -> str:
    name = file.name.removesuffix(".gz")
    return (
        f"set data.encoding to {encoding.lower().replace('windows-', 'cp')}, or convert it, such as with iconv -f "
        f"{encoding} -t UTF-8 {name} > utf8-{name}"
    )


@contextmanager
def _opened(file: Path, newline: str | None = None, encoding: str | None = None) -> Iterator[TextIO]:
    encoding = encoding or "utf-8-sig"
    if file.suffix == ".gz":
        with gzip.open(file, "rt", encoding=encoding, newline=newline) as stream:
            yield stream
    else:
        with file.open(encoding=encoding, newline=newline) as stream:
            yield stream


# CSV


@dataclass
class _Lines:
    """The lines of a CSV file as its reader takes them. taken: those of the current record. number: of the last."""

    file: Path
    stream: Iterator[str]
    taken: list[str] = field(default_factory=list)
    number: int = 0
    ended: bool = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = next(self.stream)
        except StopIteration:
            self.ended = True
            raise
        self.number += 1
        self.taken.append(line)
        if "\0" in line:
            raise DataError(
                f"{self.file}, line {self.number} holds a NUL character, which no text does; write the file again as "
                "UTF-8 (it may be UTF-16, or damaged)"
            )
        return line

    @property
    def place(self) -> str:
        """Where the current record is, before a colon."""
        first = self.number - len(self.taken) + 1
        lines = f"line {first}" if len(self.taken) < 2 else f"lines {first} to {self.number}"
        return f"{self.file}, {lines}"


def _csv_rows(
    file: Path,
    seen: dict[str, None],
    wanted: Collection[str] | None,
    delimiter: str,
    encoding: str | None,
    refuse: Refuse,
) -> Iterator[tuple[str, Row]]:
    """The rows below the header of a CSV file. Only an empty field is null: None, NA and null are words."""
    csv.field_size_limit(sys.maxsize)  # texts are long
    with _opened(file, newline="", encoding=encoding) as stream:
        lines = _Lines(file, stream)
        header: list[str] | None = None
        kept: list[tuple[int, str]] = []
        for record in csv.reader(lines, delimiter=DELIMITERS[delimiter]):
            _check_quotes(lines, DELIMITERS[delimiter])
            if not record or (len(record) == 1 and record[0].isspace()):
                pass
            elif header is None:
                header = record
                kept = _kept(lines, header, wanted, delimiter)
                seen.update(dict.fromkeys(header))
            elif len(record) != len(header):
                fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
                refuse(
                    DataError(
                        f"{lines.place}: {fields} but the header has {len(header)}; put "
                        f"fields that hold a {delimiter} or a line break between double quotes"
                    )
                )
            else:
                yield f"line {lines.number - len(lines.taken) + 1}", {name: record[n] or None for n, name in kept}
            lines.taken.clear()


def _check_quotes(lines: _Lines, delimiter: str) -> None:
    """Raises DataError where a quote has swallowed lines that are rows of their own."""
    if lines.ended:
        raise DataError(f'{lines.place}: a double quote is opened and not closed; close it, or write "" for a quote')
    if len(lines.taken) > 1:
        try:
            list(csv.reader(lines.taken, delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{lines.place}: a double quote is closed on another line, with more text behind it; close it where it "
                'belongs, or write "" for a quote'
            ) from error


def _kept(
    lines: _Lines, header: Sequence[str], wanted: Collection[str] | None, delimiter: str
) -> list[tuple[int, str]]:
    """(position, name) of the columns that are wanted."""
    kept = [(n, name) for n, name in enumerate(header) if wanted is None or name in wanted]
    for _, name in kept:
        if header.count(name) > 1:
            raise DataError(f"{lines.place}: the header has column {name!r} twice; rename one of them")
    if not kept and len(header) == 1:
        for other, character in DELIMITERS.items():
            if other != delimiter and character in header[0]:
                raise DataError(
                    f"{lines.place}: the header has one column, {header[0]!r}, in which a {other} seems to separate "
                    f"fields; set data.delimiter to {other}"
                )
    return kept


# Text, JSON and Parquet


def _texts(file: Path, unit: str, encoding: str | None) -> Iterator[tuple[str, str]]:
    """The texts of a .txt file: lines, paragraphs between empty lines, or all of it."""
    with _opened(file, encoding=encoding) as stream:
        if unit == "document":
            yield "line 1", stream.read()
        elif unit == "line":
            yield from ((f"line {number}", line.removesuffix("\n")) for number, line in enumerate(stream, 1))
        else:
            for filled, lines in groupby(enumerate(stream, 1), key=lambda line: bool(line[1].strip())):
                if filled:
                    numbered = list(lines)
                    text = "".join(line for _, line in numbered)
                    yield f"line {numbered[0][0]}", text.removesuffix("\n")


def _json_rows(file: Path, encoding: str | None, refuse: Refuse) -> Iterator[tuple[str, Row]]:
    """Each row of JSON lines or of one JSON array; DataError names the line at fault."""
    with _bytes_of(file, encoding) as stream:
        first = next((line for line in stream if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
        stream.seek(0)
        if first.lstrip().startswith(b"["):
            for number, row in enumerate(json.load(stream), 1):
                if (found := _object(row, f"{file}, row {number}", refuse)) is not None:
                    yield f"row {number}", found
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                row = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                refuse(encoding_fault(file) if number == 1 else _line_fault(file, number, not_utf8(line) or ""))
                continue
            except json.JSONDecodeError as error:
                what = f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
                refuse(DataError(f"{file}, {where}: {what}; correct the line"))
                continue
            except (ValueError, RecursionError) as error:
                refuse(DataError(f"{file}, {where}: {first_line(error)}; correct the line"))
                continue
            if (found := _object(row, f"{file}, {where}", refuse)) is not None:
                yield where, found


@contextmanager
def _bytes_of(file: Path, encoding: str | None) -> Iterator[IO[bytes]]:
    """A file's bytes in UTF-8, whatever it is in."""
    if encoding is not None:
        with _opened(file, newline="", encoding=encoding) as text:
            yield BytesIO(text.read().encode())
        return
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as stream:
        yield stream


def _object(row: Any, place: str, refuse: Refuse) -> Row | None:
    if not isinstance(row, dict):
        refuse(DataError(f"{place}: {type(row).__name__} instead of an object in curly brackets; correct it"))
        return None
    return row


def _parquet_rows(file: Path, seen: dict[str, None], wanted: Collection[str] | None) -> Iterator[tuple[str, Row]]:
    from pyarrow.parquet import ParquetFile

    number = 0
    with ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        seen.update(dict.fromkeys(names))
        columns = None if wanted is None else [name for name in names if name in wanted]
        for batch in parquet.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
