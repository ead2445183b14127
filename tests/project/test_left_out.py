"""The last line of a test run says what was left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="there is no helm")
@pytest.mark.parametrize("number", range(3))
def test_chart(number): ...

def test_gpu():
    pytest.skip("there is no GPU")

def test_passes(): ...
"""


def last_line(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("-q",), ("-v",), ("-q", "-n", "2")], ids=" ".join)
def test_the_last_line_counts_what_was_left_out_and_says_why(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    assert last_line(tmp_path, *arguments) == "left out, 4 in all: there is no helm (3); there is no GPU (1)"


def test_nothing_is_said_where_nothing_was_left_out(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_some.py").write_text("def test_passes(): ...\n")
    assert last_line(tmp_path, "-q").startswith("1 passed")
