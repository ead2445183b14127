"""The steps of examples/learn: short, in order, with their commands, and the same loss however they train."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STEPS = sorted((ROOT / "examples" / "learn").glob("step*.py"))
README = (ROOT / "examples" / "learn" / "README.md").read_text()
COMMANDS = re.findall(r"^\| \d \| `([^`]+)` \|", README, re.MULTILINE)
each_step = pytest.mark.parametrize("file", STEPS, ids=lambda file: file.stem)


def in_head(file: Path) -> list[str]:
    """The commands in the head of a step."""
    (head,) = re.findall(r'\A"""(.*?)"""', file.read_text(), re.DOTALL)
    return re.findall(r"^ {4}(\S.*)$", head, re.MULTILINE)


def test_the_path_has_seven_steps() -> None:
    assert [re.findall(r"\d", file.stem)[0] for file in STEPS] == list("1234567")
    assert sorted(COMMANDS) == sorted(command for file in STEPS for command in in_head(file))


def test_the_notebook_types_the_commands_of_the_path() -> None:
    notebook = json.loads((ROOT / "examples" / "notebooks" / "learning-path.ipynb").read_text())
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert re.findall(r'^run\("(.*)"\)$', code, re.MULTILINE) == [one for one in COMMANDS if "step7" not in one]


@each_step
def test_a_step_is_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 100


def run(command: str) -> dict[str, Any]:
    """Types a command of the path: the line that it prints last."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


@pytest.mark.examples
def test_each_step_learns_the_task_and_those_that_compute_the_same_have_the_same_loss() -> None:
    lines = {command: run(command) for command in COMMANDS}
    for command, line in lines.items():
        assert line["processes"] == (1 if line["step"][0] in "12" else 2), command
        assert line["seconds"] > 0 and line["memory_mb"] > 100, command
        assert line["accuracy"] > 0.8 and line["f1"] > 0.7, command
    for steps in ("12346", "7"):
        losses = [line["loss"] for line in lines.values() if line["step"][0] in steps]
        assert max(losses) - min(losses) < 1e-3, losses
