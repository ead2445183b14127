"""The command line: which sub-command is meant, and what its arguments are, in whatever order they come."""

import subprocess
import sys
from itertools import permutations

import pytest

from distrain_k8s.cli import command_first, main, options
from distrain_trainer.cli import COMMANDS


def validated(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `distrain ARGUMENTS` prints, where all is well."""
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    said = capsys.readouterr()
    assert left.value.code == 0, said.err
    return said.out


def test_options_stand_before_the_command_or_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    parts = (("validate",), ("--batch.tokens", "8"), ("--deterministic", "--task=chat"), ("--processes", "2"))
    found = {validated(capsys, *(word for part in order for word in part)) for order in permutations(parts)}
    assert len(found) == 1
    assert "tokens: 8\n" in found.pop()


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("--task chat train --processes 2", "train --task chat --processes 2"),  # chat is a command's name too
        ("--resume train run.yaml", "train --resume run.yaml"),
        ("--gpus 8 -o json plan", "plan --gpus 8 -o json"),
        ("--batch.packing false validate", "validate --batch.packing false"),
        ("--batch.packing validate", "validate --batch.packing"),
        ("--help", "--help"),
        ("--help train", "train --help"),
    ],
)
def test_the_command_is_found_among_its_options(typed: str, command: str) -> None:
    assert command_first(typed.split()) == command.split()


def test_an_option_takes_a_value_under_every_command_or_under_none() -> None:
    """Else the arguments before a command could not be told apart."""
    known = options(COMMANDS)
    for command in COMMANDS:
        assert all(known[name] == takes_value for name, takes_value in options([command]).items()), command.name


@pytest.mark.parametrize("arguments", [("version", "--batch.tokens", "8"), ("--batch.tokens", "8", "version")])
def test_an_option_of_another_command_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    assert left.value.code == 2
    assert "distrain version has no option --batch.tokens" in capsys.readouterr().err


def test_every_command_of_the_table_is_there() -> None:
    """And importing the table imports nothing else of the trainer."""
    code = """
import sys
import distrain_trainer.cli
print(*[name for name in sys.modules if name.startswith("distrain_trainer.")])
from importlib import import_module
for command in distrain_trainer.cli.COMMANDS:
    module, _, function = command.run.partition(":")
    assert callable(getattr(import_module(module), function)), command
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["distrain_trainer.cli"]
