"""The command `distrain convert`."""

import argparse
import sys
from pathlib import Path

from distrain_trainer.convert.convert import convert
from distrain_trainer.errors import SettingsError


def run(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Prints the settings on stdout, and on stderr what was not taken. Raises SettingsError where the source is none,
    or where its settings contradict each other, which are printed all the same."""
    name = "stdin" if chosen.file == "-" else chosen.file
    if chosen.processes is not None and chosen.processes < 1:
        raise SettingsError(f"--processes is {chosen.processes}; give 1 or more")
    try:
        text = sys.stdin.read() if chosen.file == "-" else Path(chosen.file).read_text()
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} cannot be read: not a text file") from None
    result = convert(text, name, chosen.program, chosen.processes)
    print(f"# Made from {name} by distrain convert.\n{result.document()}", end="")
    for sentence in result.said:
        print(sentence, file=sys.stderr)
    for sentence in result.left:
        print(f"not taken: {sentence}", file=sys.stderr)
    if result.refused is not None:
        raise SettingsError(f"these settings cannot be used together yet: {result.refused}")
