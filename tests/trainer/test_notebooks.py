"""The learning path is short and told in order, and the notebooks still show what was committed of them."""

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
STEPS = sorted((ROOT / "examples" / "learn").glob("step*.py"))
each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
each_step = pytest.mark.parametrize("file", STEPS, ids=lambda file: file.stem)


def cells(file: Path, kind: str) -> list[Any]:
    notebook = nbformat.read(file, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def shown(cell: Any) -> list[object]:
    """What kinds of output a cell has: text, a table, a picture."""
    return [output.get("name") or sorted(output.data) for output in cell.outputs]


def typed(text: str) -> str:
    """A command on one line."""
    return " ".join(text.replace("\\\n", " ").split())


def commands(file: Path) -> list[str]:
    """Those in the head of a step."""
    (head,) = re.findall(r'\A"""(.*?)"""', file.read_text(), re.DOTALL)
    blocks = re.findall(r"((?:^ {4,}\S.*\n)+)", head, re.MULTILINE)
    return [typed(line) for block in blocks for line in re.split(r"(?<!\\)\n", block.strip())]


def test_the_path_has_seven_steps() -> None:
    assert [re.findall(r"\d", file.stem)[0] for file in STEPS] == list("1234567")


@each_step
def test_a_step_is_short_and_is_told_in_the_notebook_with_its_command(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 100
    notebook = ROOT / "examples" / "notebooks" / "learning-path.ipynb"
    assert any(file.name in cell.source for cell in cells(notebook, "markdown"))
    run = {"".join(re.findall(r'"([^"]*)"', cell.source)) for cell in cells(notebook, "code")}
    assert commands(file) and [command for command in commands(file) if command not in run] == []
    readme = (ROOT / "examples" / "learn" / "README.md").read_text()
    assert [command for command in commands(file) if command not in typed(readme)] == []


@each_notebook
def test_a_notebook_is_committed_as_it_was_executed(file: Path) -> None:
    code = cells(file, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in kinds), "it has no plot"
    assert [output for output in kinds if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert file.stat().st_size < 500_000
    assert re.findall(r"/(?:root|home|work|tmp|usr)/\w+", file.read_text()) == []


@pytest.mark.examples
@each_notebook
def test_a_notebook_shows_the_same_in_a_new_kernel(file: Path) -> None:
    executed = runpy.run_path(str(ROOT / "examples" / "notebooks" / "execute.py"))["executed"](file)
    now = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [shown(cell) for cell in now] == [shown(cell) for cell in cells(file, "code")]
