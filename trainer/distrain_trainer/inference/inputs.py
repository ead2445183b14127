"""What `predict` reads: texts, pairs of them or conversations, from a file or line by line from stdin."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from distrain_trainer.console import a_few
from distrain_trainer.data.files import open_files, resolve_files
from distrain_trainer.data.inputs import Input, is_text, is_words
from distrain_trainer.data.readers import Row, format_of, not_utf8, rows_of_file
from distrain_trainer.data.table import batched, find_column
from distrain_trainer.errors import DataError, first_line
from distrain_trainer.inference.trained import Trained

T = TypeVar("T")
CHUNK = 4096
"""Texts that are read, sorted by length and predicted at a time."""


def inputs_in(trained: Trained, file: str | None) -> Iterator[tuple[Input, Row]]:
    """(what the model is given, its row) of the lines of stdin or a text file, or of the rows of a data file.

    Words may also be a text that white space divides. A line of stdin that is to hold two texts is JSON: an object with
    their columns, or a list of the two.
    """
    data, facts = trained.settings.data, trained.settings.facts
    pair, words = data.text_pair_column, facts.holds == "words"
    if file is None and pair is None:
        yield from ((line.split() if words else line, {"text": line}) for line in stdin_lines())
        return
    lines = file is not None and Path(file).is_file() and format_of(Path(file)) == "text"
    columns = ["text"] if lines and pair is None else []
    candidates = (*facts.text_columns, "text") if words else facts.text_columns
    for where, row in json_lines(trained) if file is None else rows_in(trained, file):
        if not columns:
            files = (Path(file),) if file is not None else ()
            columns = [find_column(row, data.text_column, candidates, "data.text_column", files)]
            columns += [find_column(row, pair, (), "data.text_pair_column", files)] if pair is not None else []
        values = [row.get(column) for column in columns]
        for setting, column, value in zip(("text_column", "text_pair_column"), columns, values, strict=False):
            if not (is_text(value) or (words and is_words(value))):
                place = f"{file or 'stdin'}, {where}"
                raise DataError(
                    f"{place}: column '{column}' holds {type(value).__name__}, not text; name another data.{setting}"
                )
        first, *second = (value or "" for value in values)
        if words:
            yield first.split() if isinstance(first, str) else first, row
        else:
            yield (first, second[0]) if second else first, row


def json_lines(trained: Trained) -> Iterator[tuple[str, Row]]:
    """(`line 3`, the row) of JSON lines on stdin; one that is a list has the texts' columns in their order."""
    data, facts = trained.settings.data, trained.settings.facts
    names = [data.text_column or facts.text_columns[0], data.text_pair_column]
    for where, value in stdin_json(f"one object with {' and '.join(filter(None, names))}"):
        row = dict(zip(filter(None, names), value, strict=False)) if isinstance(value, list) else value
        if not isinstance(row, dict):
            raise DataError(f"stdin, {where} is {type(row).__name__}; give one object with both texts per line")
        yield where, row


def rows_in(trained: Trained, file: str) -> Iterator[tuple[str, Row]]:
    """(`line 3`, the row) of a data file, or of the one split of a folder that save_to_disk wrote."""
    (path,) = resolve_files([file], "FILE")
    data = trained.settings.data
    if not path.is_dir():
        yield from rows_of_file(path, {}, None, data.delimiter, "line", data.encoding)
        return
    with TemporaryDirectory(prefix="distrain-") as scratch:
        opened = open_files([path], data, (), Path(scratch))
        if isinstance(opened, dict):
            raise DataError(f"{file} holds several splits; name the folder of one: {a_few(opened)}")
        yield from ((f"row {number}", row) for number, row in enumerate(opened.rows, 1))


def conversations_in(trained: Trained, file: str | None) -> Iterator[tuple[str, Row]]:
    """(place, the row) of a data file, or of JSON lines on stdin, each an object or a list of messages."""
    if file is not None:
        yield from ((f"{file}, {where}", row) for where, row in rows_in(trained, file))
        return
    for where, row in stdin_json("one object with messages"):
        yield f"stdin, {where}", row if isinstance(row, dict) else {"messages": row}


def stdin_json(wanted: str) -> Iterator[tuple[str, Any]]:
    """(`line 3`, its value) of the JSON lines on stdin, empty ones left out. wanted: what to give, for people."""
    for number, line in enumerate(stdin_lines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"stdin, line {number} is not JSON ({first_line(error)}); give {wanted} per line"
            ) from error
        yield f"line {number}", value


def stdin_lines() -> Iterator[str]:
    """The lines of stdin; DataError where one is not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if told := not_utf8(line):
            raise DataError(f"stdin, line {number}: {told}; convert it, such as with iconv -f WINDOWS-1252 -t UTF-8")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")


def in_chunks(rows: Iterator[tuple[T, Row]]) -> Iterator[list[tuple[T, Row]]]:
    """Lists of up to CHUNK inputs; of one where stdin is a terminal, so that each line is answered at once."""
    return batched(rows, 1 if sys.stdin.isatty() else CHUNK)
