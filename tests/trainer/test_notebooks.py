"""The notebooks are committed as they were executed, and show the same in a new kernel."""

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def code(notebook: Any) -> list[Any]:
    """Its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[object]:
    """What kinds of output a cell has: text, a table, a picture."""
    return [output.get("name") or sorted(output.data) for output in cell.outputs]


@each_notebook
def test_a_notebook_is_committed_as_it_was_executed(file: Path) -> None:
    cells = code(nbformat.read(file, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "it has no plot"
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert file.stat().st_size < 500_000
    assert re.findall(r"/(?:root|home|work|tmp|usr)/\w+", file.read_text()) == []


@pytest.mark.examples
@each_notebook
def test_a_notebook_shows_the_same_in_a_new_kernel(file: Path) -> None:
    executed = runpy.run_path(str(ROOT / "examples" / "notebooks" / "execute.py"))["executed"](file)
    kept = code(nbformat.read(file, as_version=4))
    assert [shown(cell) for cell in code(executed)] == [shown(cell) for cell in kept]
