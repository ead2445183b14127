"""What the make targets do on machines that lack something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USUAL = ("/usr/bin", "/bin")

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or any(Path(folder, name).exists() for folder in USUAL for name in ("go", "helm")),
    reason="there is no make, or Go or Helm is beside the system's own programs",
)


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def make_test(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`make test` with the programs in tmp_path/bin and an empty cache; pytest only says that it was started."""
    environment = {
        "PATH": ":".join([str(tmp_path / "bin"), *USUAL]),
        "HOME": os.environ.get("HOME", "/"),
        "KIND_CACHE": str(tmp_path / "cache"),
    }
    command = ["make", "-o", ".venv/ready", "test", f"PY={sys.executable}", "PYTEST=echo the tests run"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_make_test_builds_helm_where_go_is_and_no_helm(tmp_path: Path) -> None:
    program(tmp_path / "bin", "go", f'echo "$GOBIN $*" >> {tmp_path}/calls')
    done = make_test(tmp_path)
    assert done.returncode == 0 and "the tests run" in done.stdout, done.stderr
    [install] = [line for line in (tmp_path / "calls").read_text().splitlines() if " install " in line]
    assert install.startswith(f"{tmp_path}/cache/bin ") and "helm.sh/helm/v3/cmd/helm@v3." in install


def test_make_test_goes_on_where_helm_cannot_be_built(tmp_path: Path) -> None:
    program(tmp_path / "bin", "go", "echo no network >&2; exit 1")
    done = make_test(tmp_path)
    assert done.returncode == 0 and "the tests run" in done.stdout
    assert "no network" in done.stderr


@pytest.mark.parametrize("helm", [True, False], ids=["helm and go", "neither"])
def test_make_test_builds_nothing_where_helm_is_or_go_is_not(tmp_path: Path, helm: bool) -> None:
    if helm:
        program(tmp_path / "bin", "helm", "exit 0")
        program(tmp_path / "bin", "go", "exit 1")
    done = make_test(tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (
        0,
        "the tests run -n 3 --dist loadfile --durations=10",
        "",
    )
    assert not (tmp_path / "cache").exists()
