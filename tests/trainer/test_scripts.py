"""The shell scripts of examples/, as a person types them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def typed(script: str, folder: Path, **variables: str) -> str:
    """What `bash examples/SCRIPT FOLDER` prints; fails unless it exits with 0."""
    environment = os.environ | variables | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = ["bash", f"examples/{script}", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.examples
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    assert typed("resume.sh", tmp_path).splitlines()[-1] == "the same weights, byte for byte"


@pytest.mark.examples
def test_a_sweep_goes_on_where_it_was_and_compares_its_runs(tmp_path: Path) -> None:
    short = {"DISTRAIN_SCHEDULE__MAX_STEPS": "2", "DISTRAIN_EVALUATION__SAMPLES": "32"}
    first = typed("sweep.sh", tmp_path, **short)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("rate-*/final/*.safetensors")}
    assert len({file.parents[1] for file in times}) == 3 and all(
        f"rate-{rate}" in first for rate in ("1e-4", "4e-4", "1e-3")
    )
    assert (tmp_path / "compared.html").exists()
    typed("sweep.sh", tmp_path, **short)
    assert {file: file.stat().st_mtime_ns for file in times} == times
