"""The benchmarks start; what they measure is not for a test."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_benchmark_finds_what_it_imports() -> None:
    names = ", ".join(sorted(path.stem for path in BENCHMARKS.glob("*.py")))
    command = [sys.executable, "-c", f"import {names}"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
