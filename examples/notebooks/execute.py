"""Executes notebooks and keeps what comes of them, without anything that tells of the machine.

    python examples/notebooks/execute.py [NOTEBOOK]...

Without names all of this folder, each in place.
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
CELL_SECONDS = 1200
"""Longest that a cell may take."""


def executed(file: Path) -> NotebookNode:
    """The notebook with the outputs of a new kernel, run beside the original. Raises CellExecutionError."""
    notebook = nbformat.read(file, as_version=4)
    beside = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=beside).execute()
    return cleaned(notebook)


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without times and versions of its execution, and with no folder of this machine in its outputs."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "text" in output:
                output.text = relative(output.text)
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = relative(text)
    return notebook


def relative(text: str) -> str:
    """The text with paths below the project's root relative to it."""
    return re.sub(re.escape(str(HERE.parents[1])) + "/?", "", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")), metavar="NOTEBOOK")
    for file in parser.parse_args().notebooks:
        nbformat.write(executed(file), file)
        print(f"executed {file.name}")


if __name__ == "__main__":
    main()
