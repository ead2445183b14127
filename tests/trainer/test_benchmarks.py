"""The benchmarks start; what they measure is not for a test."""

import sys
from importlib import import_module
from pathlib import Path

import warm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_benchmark_finds_what_it_imports() -> None:
    process = warm.SERVER.Process(target=_import_all)
    process.start()
    process.join(300)
    assert process.exitcode == 0


def _import_all() -> None:
    """Runs in a process of its own, whose modules may have the names of ours."""
    sys.path.insert(0, str(BENCHMARKS))
    for path in sorted(BENCHMARKS.glob("*.py")):
        import_module(path.stem)
