"""Rows of the data as columns, and where each row came from.

Rows of CSV, JSON and text files become one table of texts, each value as it stands in its file (`as_text`), and only
columns that are used are in it. So no column's type can change in the middle of a file; what the values of a label
column are is decided over all of them.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.data.conversations import as_text, from_text
from distrain_trainer.data.readers import Dropped, Refuse, Row, format_of, refuse_all, rows_of_file
from distrain_trainer.errors import DataError
from distrain_trainer.settings.sections import Data

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
BATCH = 1000
"""Rows that are written at a time: memory stays flat."""
INTEGER = re.compile(r"\s*[+-]?\d{1,4000}\s*", re.ASCII)
DECIMAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Source:
    """All rows of some files, or of a split.

    name: for people, such as `reviews.csv`. rows: columns that are used. columns: names of all that are there.
    lacking: columns that not all files have, each with the first that lacks it. files: that the rows are of, in order;
    none where they are a split that a library opened. data: how the files were read. dropped: rows that were not.
    """

    name: str
    rows: "Dataset"
    columns: tuple[str, ...]
    lacking: dict[str, Path]
    files: tuple[Path, ...] = ()
    data: Data = field(default_factory=Data)
    dropped: Dropped = field(default_factory=Dropped)

    @property
    def is_text(self) -> bool:
        """Whether the values are texts of `as_text`."""
        return bool(self.files) and format_of(self.files[0]) != "parquet"

    @cached_property
    def _read(self) -> dict[str, list[Any]]:
        return {}

    def values(self, column: str) -> list[Any]:
        """The values of a column; those of CSV are numbers or booleans where all of them are."""
        if column not in self._read:
            values = self.rows.select_columns(column)[:][column]
            if self.is_text:
                csv = format_of(self.files[0]) == "csv"
                values = typed(values) if csv else [from_text(value) for value in values]
            self._read[column] = values
        return self._read[column]

    def place(self, number: int) -> str:
        """Where a row is, counted from 0: `reviews.csv, line 12`. The files are read again for it."""
        left = number
        for file in self.files:
            for where, _ in rows_of_file(file, {}, (), **reading(self.data), refuse=refuse_of(self.data)):
                if not left:
                    return f"{file}, {where}"
                left -= 1
        return f"{self.name}, row {number + 1}"


@dataclass(frozen=True)
class Part:
    """Some rows of a source. name: what they are for, such as `training`. numbers: int64 [rows], of its rows."""

    name: str
    source: Source
    numbers: np.ndarray

    @staticmethod
    def of(source: Source, name: str = "training") -> "Part":
        """All rows of a source."""
        return Part(name, source, np.arange(len(source.rows)))

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def rows(self) -> "Dataset":
        """The rows themselves."""
        whole = len(self.numbers) == len(self.source.rows)
        return self.source.rows if whole else self.source.rows.select(self.numbers)

    def named(self, name: str) -> "Part":
        """The same rows for another purpose."""
        return replace(self, name=name)

    def select(self, indices: np.ndarray) -> "Part":
        """Some of these rows. indices: int [rows], among these."""
        return replace(self, numbers=self.numbers[indices])

    def values(self, column: str) -> list[Any]:
        """The values of a column in these rows."""
        values = self.source.values(column)
        return [values[number] for number in self.numbers.tolist()]

    def place(self, index: int) -> str:
        """Where one of these rows is: `reviews.csv, line 12`."""
        return self.source.place(int(self.numbers[index]))

    def column(self, wanted: str | None, candidates: Sequence[str], setting: str) -> str:
        """The column that a setting names, or the first candidate that is there; DataError lists the columns."""
        found = find_column(self.source.columns, wanted, candidates, setting, self.source.files)
        if found in self.source.lacking:
            raise DataError(
                f"{self.source.lacking[found]} has no column '{found}', which other files have; rename its column, or "
                "leave the file out"
            )
        return found


def find_column(
    columns: Collection[str], wanted: str | None, candidates: Sequence[str], setting: str, files: Sequence[Path] = ()
) -> str:
    """The column that a setting names, or the first candidate that is there; DataError lists the columns.

    files: where the columns are from. The first line of a CSV file is taken for their names, which is told.
    """
    found = wanted if wanted is not None else next((name for name in candidates if name in columns), None)
    if found is not None and found in columns:
        return found
    missing = f"the data has no column {' or '.join(candidates)}"
    if wanted is not None:
        missing = f"{setting} '{wanted}' is not a column of the data"
    csv = bool(files) and format_of(files[0]) == "csv"
    heading = f"; they are the first line of {files[0]}, so give it a header line if that is a row" if csv else ""
    raise DataError(f"{missing}; the columns are {a_few(columns) or 'none'}: set {setting} to one of them{heading}")


def typed(texts: Sequence[str | None]) -> list[Any]:
    """Texts as integers, else as numbers, else as booleans where all of them are; else as they are. Null stays null."""
    filled = {text for text in texts if text is not None}
    kinds: tuple[tuple[Callable[[str], Any], Callable[[str], Any]], ...] = (
        (INTEGER.fullmatch, int),
        (DECIMAL.fullmatch, float),
        (BOOLEANS.__contains__, BOOLEANS.__getitem__),
    )
    for fits, convert in kinds:
        if filled and all(fits(text) for text in filled):
            made = {text: convert(text) for text in filled}
            return [None if text is None else made[text] for text in texts]
    return list(texts)


def tabulate(files: Sequence[Path], wanted: Collection[str], data: Data, folder: Path) -> Source:
    """The rows of CSV, JSON or text files of one format. folder: for the table, which is mapped from there.

    wanted: columns that may be used. Raises DataError for what cannot be read, and where there are no rows.
    """
    import pyarrow as pa
    from datasets import Dataset

    names = list(dict.fromkeys(wanted))
    schema = pa.schema([(name, pa.large_string()) for name in names])
    headers: dict[Path, dict[str, None]] = {}
    refuse = refuse_of(data)
    dropped = refuse if isinstance(refuse, Dropped) else Dropped()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.arrow"
    with pa.ipc.new_stream(str(path), schema) as writer:
        for file in files:
            header: dict[str, None] = {}
            for batch in batched(rows_of_file(file, header, names, **reading(data), refuse=refuse), BATCH):
                columns = [[as_text(row.get(name)) for _, row in batch] for name in names]
                try:
                    arrays = [pa.array(column, pa.large_string()) for column in columns]
                except (UnicodeEncodeError, pa.ArrowInvalid) as error:
                    raise _half_characters(file, batch, names) from error
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                headers[file] = header
    listed = f"{len(files)} files from {files[0]}" if len(files) > 1 else str(files[0])
    if not headers:
        told = f" ({dropped.sentence})" if dropped.count else ""
        raise DataError(f"{listed} has no rows{told}; name files with rows")
    seen = {name: None for header in headers.values() for name in header}
    lacking = {name: file for file, header in reversed(headers.items()) for name in seen if name not in header}
    there = [name for name in names if name in seen] or names[:1]  # without a column there would be no rows
    rows = Dataset.from_file(str(path)).select_columns(there)
    return Source(listed, rows, tuple(seen), lacking, tuple(files), data, dropped)


def reading(data: Data) -> dict[str, Any]:
    """How `rows_of_file` is to read the files of a run."""
    return {"delimiter": data.delimiter, "unit": data.text_unit, "encoding": data.encoding}


def refuse_of(data: Data) -> Refuse:
    """What becomes of rows that cannot be read."""
    return Dropped() if data.bad_rows == "drop" else refuse_all


def batched(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` rows."""
    while batch := list(islice(rows, size)):
        yield batch


def _half_characters(file: Path, batch: Sequence[tuple[str, Row]], names: Sequence[str]) -> DataError:
    """Names the row that holds half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    for where, row in batch:
        for name in names:
            try:
                (as_text(row.get(name)) or "").encode()
            except UnicodeEncodeError as error:
                half = error.object[error.start]
                return DataError(
                    f"{file}, {where}: '{name}' holds {half!a}, half of a character; correct or remove the row"
                )
    return DataError(f"{file} holds texts that are not Unicode; correct them")
