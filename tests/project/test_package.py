"""What `make package` makes of a commit: wheel, sdist, chart and bill of materials, all of one version."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("KIND_CACHE") or Path.home() / ".cache" / "distrain-kind")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

pytestmark = [
    pytest.mark.matrix,  # packs the whole project
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout"),
    pytest.mark.skipif(
        shutil.which("helm", path=f"{os.environ['PATH']}:{CACHE / 'bin'}") is None, reason="there is no helm"
    ),
]


def package(source: Path, dist: Path) -> subprocess.CompletedProcess[str]:
    """Packs the newest commit of a checkout, as `make package` does."""
    return subprocess.run(
        [source / ".ci" / "package"],
        env=os.environ | {"PY": sys.executable, "DIST": str(dist), "KIND_CACHE": str(CACHE)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_release_is_whole_and_of_one_version(tmp_path: Path) -> None:
    done = package(ROOT, tmp_path / "dist")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "dist").iterdir()}
    wheel, sdist, chart, bill = (
        f"distrain-{VERSION}{end}" for end in ("-py3-none-any.whl", ".tar.gz", ".tgz", ".cdx.json")
    )
    assert names == {wheel, sdist, chart, bill, "SHA256SUMS"}

    for line in (tmp_path / "dist" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((tmp_path / "dist" / name).read_bytes()).hexdigest() == digest
    with tarfile.open(tmp_path / "dist" / chart) as packed:
        described = yaml.safe_load(packed.extractfile("distrain/Chart.yaml") or b"")
    assert described["version"] == described["appVersion"] == VERSION
    with zipfile.ZipFile(tmp_path / "dist" / wheel) as packed_wheel:
        assert {"distrain_k8s/cli.py", "distrain_trainer/cli.py", "distrain_k8s/chart/Chart.yaml"} <= {
            *packed_wheel.namelist()
        }
    materials = json.loads((tmp_path / "dist" / bill).read_text())
    listed = {f"{part['name']}=={part['version']}" for part in materials["components"]}
    pinned = {line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert materials["bomFormat"] == "CycloneDX" and listed == pinned


def test_a_chart_of_another_version_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(source)], check=True)
    chart = source / "charts" / "distrain" / "Chart.yaml"
    chart.write_text(chart.read_text().replace(f"\nversion: {VERSION}", "\nversion: 9.9.9"))
    shutil.copy(ROOT / ".ci" / "package", source / ".ci" / "package")
    git = ("git", "-C", str(source), "-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run([*git, "commit", "-qam", "Change the chart's version"], check=True)
    done = package(source, tmp_path / "dist")
    assert done.returncode == 1 and not (tmp_path / "dist").exists()
    assert f"Chart.yaml is 9.9.9 but pyproject.toml says {VERSION}" in done.stderr
