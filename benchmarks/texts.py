"""Texts of four kinds of length for a classification, all from the source files of Python's standard library.

The label is the package that a text comes from. Nothing is imported, nothing is fetched.
"""

import ast
import hashlib
import inspect
import io
import json
import random
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("asyncio", "email", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml")
EVALUATION_PERCENT = 30
"""Rows that are only evaluated on: many, so that an accuracy is known to a percent or two."""


def sources(package: str) -> Iterator[str]:
    """The source files of a package, tests left out."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted([*library.glob(f"{package}.py"), *library.glob(f"{package}/**/*.py")]):
        if not {"test", "tests"} & set(file.relative_to(library).parts):
            yield file.read_text(encoding="utf-8", errors="replace")


def docstrings(source: str, least: int = 1) -> Iterator[str]:
    """The docstrings of at least that many characters."""
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            if len(text) >= least:
                yield text


def very_short(source: str) -> Iterator[str]:
    """Comments of one line, and first lines of docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and any(letter.isalpha() for letter in token.string):
            yield token.string.lstrip("#: ")
    for text in docstrings(source):
        yield text.splitlines()[0]


def medium(source: str) -> Iterator[str]:
    """Whole docstrings, those of a few words left out."""
    yield from docstrings(source, least=100)


def long(source: str) -> Iterator[str]:
    """Pieces of about thirty lines."""
    yield from pieces(source, lambda generator: 30)


def very_unequal(source: str) -> Iterator[str]:
    """Pieces of one to a hundred lines, most of them short."""
    yield from pieces(source, lambda generator: min(max(round(generator.lognormvariate(1.6, 1.2)), 1), 100))


def pieces(source: str, lines_of: Callable[[random.Random], int]) -> Iterator[str]:
    """Consecutive lines, empty ones left out; as many in a piece as `lines_of` draws, always alike for a source."""
    generator = random.Random(source)
    lines = [line for line in source.splitlines() if line.strip()]
    while lines:
        count = lines_of(generator)
        yield inspect.cleandoc("\n" + "\n".join(lines[:count]))
        lines = lines[count:]


KINDS: dict[str, tuple[Callable[[str], Iterator[str]], int]] = {
    "very short": (very_short, 3000),
    "medium": (medium, 1500),
    "long": (long, 600),
    "very unequal": (very_unequal, 1000),
}
"""The texts of a source, and how many of all are taken."""


def write_texts(kind: str, path: Path, share: float, seed: int) -> tuple[int, int]:
    """Writes JSON lines {"text", "label", "split"} of a kind, in random order, and returns how many of them train
    and how many are held out.

    share: of the usual number. split: train or evaluation, by a hash of the text. A text that several packages carry is
    left out.
    """
    texts_of, count = KINDS[kind]
    labels: dict[str, set[str]] = {}
    for package in PACKAGES:
        for source in sources(package):
            for text in texts_of(source):
                if text.strip():
                    labels.setdefault(text, set()).add(package)
    rows = [(text, min(packages)) for text, packages in labels.items() if len(packages) == 1]
    random.Random(seed).shuffle(rows)
    rows = rows[: max(round(count * share), 8 * len(PACKAGES))]
    held_out = 0
    with path.open("w") as file:
        for text, label in rows:
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            split = "evaluation" if number % 100 < EVALUATION_PERCENT else "train"
            held_out += split == "evaluation"
            file.write(json.dumps({"text": text, "label": label, "split": split}) + "\n")
    return len(rows) - held_out, held_out
