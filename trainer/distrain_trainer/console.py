"""What the program says to a person, and how numbers look in a sentence.

Messages are sentences on stderr, of four levels: `debug`, `say` (info), `warn` and `error`. A run of several nodes puts
the time and the process that speaks before each, because their logs are read together. On a terminal warnings and
errors have a colour, unless NO_COLOR is set (no-color.org). No message shows a secret of the environment.
"""

import os
import sys
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, get_args

from distrain_trainer.secrets import without_secrets

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
COLOURS: dict[Level, str] = {"warning": "\x1b[33m", "error": "\x1b[31m"}
RESET = "\x1b[0m"
SHOWN = 8
"""Names of labels or columns that a sentence shows."""

_level: Level = "info"
_speaker = ""


def configure(level: Level, speaker: str = "") -> None:
    """Sets the least level that is shown. speaker: who speaks, such as `node 3`, where several share a log."""
    global _level, _speaker
    _level, _speaker = level, speaker


def debug(text: str) -> None:
    """Says what only helps to find a fault."""
    _print("debug", text)


def say(text: str) -> None:
    """Says one sentence to the person; above the bar where there is one."""
    _print("info", text)


def warn(text: str) -> None:
    """Says what the person should know although the program goes on."""
    _print("warning", f"distrain: {text}")


def error(text: str) -> None:
    """Says what has ended the program, or a part of it."""
    _print("error", f"distrain: {text}")


def _print(level: Level, text: str) -> None:
    if LEVELS.index(level) < LEVELS.index(_level):
        return
    text = without_secrets(text)
    if _speaker:
        text = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {_speaker}: {text}"
    if level in COLOURS and _shows_colours():
        text = f"{COLOURS[level]}{text}{RESET}"
    with suppress(OSError, ValueError):  # whoever reads has gone; a run does not end for that
        print(text, file=sys.stderr, flush=True)


def _shows_colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def short(number: float) -> str:
    """A number in at most four figures and a unit: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """A time span as a clock shows it: 0:07, 12:34, 1:23:45."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def a_few(names: Collection[object]) -> str:
    """Names in quotes, the first few of many and how many more there are."""
    shown = ", ".join(repr(name) for name, _ in zip(names, range(SHOWN), strict=False))
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"
