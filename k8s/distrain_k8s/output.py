"""How the client prints: data on stdout, everything else on stderr.

`table` and `wide` are for people: coloured on a terminal, unless NO_COLOR is set (no-color.org). A table is as wide as
the terminal; `wide`, and whatever goes to a file or a pipe, is never cut off. `json` and `yaml` are one document.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from distrain_k8s.installed import need

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

FORMATS = ("table", "wide", "json", "yaml")
UNLIMITED = 100_000
"""Columns of what is no terminal."""
ROOM = 40
"""Columns that a long text needs at least, to stand beside the others of its row."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table. text: of a row. style: a rich style, or a function of the row that gives one. wide: shown
    with `-o wide` only. gives_way: whether it is the one that becomes narrow on a narrow terminal, where its text is
    cut off, or goes on in the next line (folds). below: it moves below its row where it would get under ROOM columns.
    right: numbers."""

    title: str
    text: Callable[[Row], str]
    style: str | Callable[[Row], str] = ""
    wide: bool = False
    gives_way: bool = False
    folds: bool = False
    below: bool = False
    right: bool = False


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    form: str,
    data: Callable[[Row], Any],
    empty: str = "",
) -> None:
    """Prints rows in the form that was asked for. data: what json and yaml show of a row. empty: said on stderr where
    there is no row and a person would see nothing."""
    if form in ("json", "yaml"):
        print_document([data(row) for row in rows], form)
    elif rows and not sys.stdout.isatty():
        print_plain(rows, [column for column in columns if form == "wide" or not column.wide])
    elif rows:
        width = UNLIMITED if form == "wide" else console().width
        made = stacked(rows, columns) if is_crowded(rows, columns, width) else table(rows, columns, wide=form == "wide")
        print_rich(made, width)
    elif empty:
        say(empty)


def print_plain(rows: Sequence[Row], columns: Sequence[Column[Row]]) -> None:
    """The same table without colours, for a file or a pipe: a thousand rows take rich longer than all the rest."""
    for line in aligned([[column.title for column in columns], *cells_of(rows, columns)], columns):
        print("  ".join(line).rstrip())


def cells_of(rows: Iterable[Row], columns: Sequence[Column[Row]]) -> list[list[str]]:
    """The text of each column of each row."""
    return [[column.text(row) for column in columns] for row in rows]


def aligned(cells: Sequence[Sequence[str]], columns: Sequence[Column[Row]]) -> list[list[str]]:
    """The same cells, all those of a column as wide as its widest."""
    widths = [max(map(len, texts)) for texts in zip(*cells, strict=True)]
    return [
        [
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        for line in cells
    ]


def is_crowded(rows: Sequence[Row], columns: Sequence[Column[Row]], width: int) -> bool:
    """Whether the column that may move below its row would get under ROOM of a terminal's columns."""
    beside = [column for column in columns if not column.below]
    cells = [[column.title for column in beside], *cells_of(rows, beside)]
    return len(beside) < len(columns) and len("  ".join(aligned(cells, beside)[0])) + 2 + ROOM > width


def stacked(rows: Sequence[Row], columns: Sequence[Column[Row]]) -> "Group":
    """The same rows for a narrow terminal: the long text of each is indented below it."""
    need("rich")
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    beside = [column for column in columns if not column.below]
    parts: list[Text | Padding] = []
    for row, line in zip(rows, aligned(cells_of(rows, beside), beside), strict=True):
        styles = [column.style(row) if callable(column.style) else column.style for column in beside]
        parts.append(Text("  ").join(map(Text, line, styles)))
        parts += [Padding(Text(column.text(row), overflow="fold"), (0, 0, 0, 4)) for column in columns if column.below]
    return Group(*parts)


def print_document(document: Any, form: str) -> None:
    """One document on stdout: `json` or `yaml`. Times are written as ISO 8601."""
    if form == "json":
        print(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))
    else:
        need("yaml")
        import yaml

        plain = json.loads(json.dumps(document, default=_plain))
        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def table(rows: Iterable[Row], columns: Sequence[Column[Row]], wide: bool = False) -> "Table":
    """A table without lines, as kubectl prints it."""
    need("rich")
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in columns if wide or not column.wide]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for column in shown:
        made.add_column(
            column.title,
            no_wrap=not column.gives_way,
            justify="right" if column.right else "left",
            min_width=12 if column.gives_way else None,
        )
    for row in rows:
        styles = [column.style(row) if callable(column.style) else column.style for column in shown]
        made.add_row(
            *(
                Text(column.text(row), style, no_wrap=not column.folds, overflow="fold" if column.folds else "ellipsis")
                for column, style in zip(shown, styles, strict=True)
            )
        )
    return made


def print_rich(renderable: Any, width: int | None = None) -> None:
    """Prints something of rich's on stdout, without blanks at the ends of lines. width: None for the terminal's."""
    found = console()
    found.width = width or found.width
    with found.capture() as captured:
        found.print(renderable)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def console(file: IO[str] | None = None) -> "Console":
    """A console on stdout, or another file; as wide as the terminal, or without an end where there is none."""
    need("rich")
    from rich.console import Console

    target = file or sys.stdout
    width = None if target.isatty() else UNLIMITED
    return Console(file=target, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def colours(file: IO[str]) -> bool:
    """Whether colours are wanted there."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Tells a person one sentence, on stderr."""
    print(text, file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """How long something is or took, in two units at most: 5s, 3m12s, 2h05m, 4d3h."""
    total = max(int(seconds), 0)
    if total < 60:
        return f"{total}s"
    minutes, second = divmod(total, 60)
    if minutes < 60:
        return f"{minutes}m{second:02}s" if minutes < 10 else f"{minutes}m"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minute:02}m"
    days, hour = divmod(hours, 24)
    return f"{days}d{hour}h"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in a document")
