"""The command line: which sub-command is meant, and what its arguments are, in whatever order they come."""

import subprocess
import sys
from importlib.metadata import version
from itertools import permutations
from pathlib import Path

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
    assert left.value.code == 64
    said = "distrain: distrain version has no option --batch.tokens; see distrain version --help\n"
    assert capsys.readouterr().err == said


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which `distrain ARGUMENTS` ends."""
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    said = capsys.readouterr()
    assert left.value.code == 64 and not said.out, said
    assert said.err.startswith("distrain: ") and said.err.count("\n") == 1
    return said.err.removeprefix("distrain: ").strip()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "the following arguments are required: COMMAND; see distrain --help"),
        ("trian", "trian is not a command; did you mean train?"),
        ("nonsense", "nonsense is not a command; see distrain --help"),
        ("--nonsense", "the following arguments are required: COMMAND; see distrain --help"),
        ("predict", "the following arguments are required: PATH; see distrain predict --help"),
        ("train --processes", "--processes: expected one argument; see distrain train --help"),
        ("train --processes two", "--processes: invalid int value: 'two'; see distrain train --help"),
        ("train --processes 0", "--processes is 0; give 1 or more"),
        ("train a.yaml b.yaml", "unrecognized arguments: b.yaml; see distrain --help"),
        ("merge run --dtype fp8", "--dtype: invalid choice: 'fp8' (choose from 'fp32', 'bf16', 'fp16'); see"),
        ("train --output_dir", "--output_dir needs a value, such as --output_dir out"),
        ("train --nonsense", "--nonsense is not a setting; distrain train --help lists them all"),
        ("status --contxt a run", "distrain status has no option --contxt; see distrain status --help"),
    ],
)
def test_a_fault_of_the_command_line_is_one_sentence_and_64(
    typed: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *typed.split()).startswith(sentence)


def test_a_file_without_a_command_is_taken_for_what_train_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.touch()
    assert refused(capsys, str(file)) == f"{file} is not a command; did you mean distrain train {file}?"


def test_the_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert validated(capsys, "--version") == validated(capsys, "version") == f"{version('distrain')}\n"
    assert "--version" in validated(capsys, "--help")


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
