"""Rows for a first run without any download: the docstrings of Python's standard library, by package."""

import ast
import hashlib
import inspect
import json
import os
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from distrain_trainer.errors import DataError

PACKAGES = (
    "asyncio",
    "email",
    "encodings",
    "http",
    "importlib",
    "logging",
    "mailbox",
    "multiprocessing",
    "tarfile",
    "unittest",
    "urllib",
    "xml",
)
"""The labels: those with most docstrings of what every Python from 3.10 on carries (some builds lack turtle)."""

EVALUATION_PERCENT = 15


def write_sample(path: Path) -> int:
    """Writes JSON lines {"text", "label", "split"} and returns their number; a file that is there stays as it is.

    text: docstring of a module, class or function, without its indentation. label: the package it comes from.
    split: train or evaluation, by a hash of the text. A text that several packages carry is in none, since no label
    would be right; of one that a package repeats the first stays. Nothing is imported. Raises DataError where Python
    comes without source files, and OSError where `path` cannot be written.
    """
    if path.exists():
        return path.read_bytes().count(b"\n")
    labels: dict[str, set[str]] = {}
    for package in PACKAGES:
        for text in _docstrings(package):
            labels.setdefault(text, set()).add(package)
    lines = [
        json.dumps({"text": text, "label": min(packages), "split": _split(text)}, ensure_ascii=False) + "\n"
        for text, packages in labels.items()
        if len(packages) == 1
    ]
    if not lines:
        raise DataError("this Python comes without the source files of its standard library; set data.files")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    return len(lines)


def _docstrings(package: str) -> Iterator[str]:
    """Docstrings of a package or module of the standard library, in the order of its files, tests left out."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted([*library.glob(f"{package}.py"), *library.glob(f"{package}/**/*.py")]):
        if {"test", "tests"} & set(file.relative_to(library).parts):
            continue
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
                if text:
                    yield text


def _split(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return "evaluation" if number % 100 < EVALUATION_PERCENT else "train"
