"""Writes what each layer of the image installs, so that a layer changes only with its own part of pyproject.toml.

Arguments: pyproject.toml, constraints.txt, and the folder to write into.
"""

import sys
import tomllib
from pathlib import Path

pyproject, constraints, folder = map(Path, sys.argv[1:])
described = tomllib.loads(pyproject.read_text())
project = described["project"]
extras = project["optional-dependencies"]
PARTS = ("trainer", "deepspeed", "quantization", "trackers")
layers = {
    "build": described["build-system"]["requires"],
    "torch": [pin for pin in constraints.read_text().splitlines() if pin.startswith("torch==")],
    "libraries": sum((extras[name] for name in PARTS), project["dependencies"]),
    "sample": extras["sample"],
}
folder.mkdir()
for name, lines in layers.items():
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
