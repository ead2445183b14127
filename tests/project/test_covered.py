"""Every row of docs/sources.md names commands, files and tests that are there."""

import re
import shlex
from pathlib import Path

import pytest

from distrain_k8s.cli import COMMANDS
from distrain_trainer.settings.model import Settings, flat

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in PAGE.splitlines() if "tests/" in line]
ROWS = [row for row in ROWS if len(row) == 3]
SETTINGS = flat(Settings())
NAMES = {command.name for command in COMMANDS}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])


def test_every_row_is_read() -> None:
    heads = len(re.findall(r"^\| asked for ", PAGE, re.MULTILINE))
    assert heads == 6 and len(ROWS) == len(re.findall(r"^\| ", PAGE, re.MULTILINE)) - 2 * heads


@each_row
def test_the_test_of_a_row_is_there(row: list[str]) -> None:
    file, _, name = row[2].strip("`").partition("::")
    assert (ROOT / file).is_file()
    assert not name or f"\ndef {name}(" in (ROOT / file).read_text()


@each_row
def test_the_command_of_a_row_is_there(row: list[str]) -> None:
    command = row[1].strip("`")
    program, *words = shlex.split(command)
    files = [word for word in re.findall(r"[\w./-]+", " ".join(row[:2])) if re.match(r"(examples|charts|docs)/", word)]
    assert [file for file in files if not (ROOT / file).exists()] == []
    if program == "distrain":
        assert words[0] in NAMES
        named = [
            word.removeprefix("--") for word in words[1:] if re.fullmatch(r"--\w+(\.\w+)+|--(precision|seed)", word)
        ]
        assert [name for name in named if name not in SETTINGS] == []
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program in ("accelerate", "bash", "docker", "helm", "python", "torchrun")
