"""What `pip install distrain` leaves: the wheel, in an empty environment that has the client's packages only."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "distrain"


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in another folder, with nothing of this environment on its path."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy, so that nothing is left here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    files = [path for path in ROOT.iterdir() if path.is_file()]
    subprocess.run(["cp", "-r", *files, ROOT / "trainer", ROOT / "k8s", ROOT / "charts", source], check=True)
    # The environment's setuptools builds it: nothing is fetched.
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    done = subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def add_needed(lines: Iterable[str], found: dict[str, list[Path]]) -> None:
    """Collects the files of the distributions that are required, and of what these require; without extras."""
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        installed = distribution(name)
        found[name] = [Path(str(file.locate())) for file in installed.files or () if ".." not in file.parts]
        add_needed(installed.requires or (), found)


@pytest.fixture(scope="session")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel and the base dependencies: those of this environment, linked one by one,
    since nothing may be fetched."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    with zipfile.ZipFile(wheel) as content:
        metadata = Parser().parsestr(
            content.read(f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info/METADATA").decode()
        )
    found: dict[str, list[Path]] = {}
    add_needed(metadata.get_all("Requires-Dist", []), found)
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    here = Path(str(distribution("pydantic").locate_file("")))
    for top in {file.relative_to(here).parts[0] for files in found.values() for file in files}:
        if not (site / top).exists():
            (site / top).symlink_to(here / top)
    return folder


def distrain(client: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(client / "venv" / "bin" / "distrain", *arguments, folder=client)


def files_below(folder: Path) -> Iterable[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_wheel_holds_every_module_and_the_whole_chart(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    for package in ("trainer/distrain_trainer", "k8s/distrain_k8s"):
        wanted = {name for name in files_below(ROOT / package) if "__pycache__" not in name}
        assert {f"{Path(package).name}/{name}" for name in wanted} <= names
    charts = {name.removeprefix("distrain_k8s/chart/") for name in names if name.startswith("distrain_k8s/chart/")}
    assert charts == set(files_below(CHART))


def test_the_client_finds_its_chart(client: Path) -> None:
    code = "from distrain_k8s.render import chart_folder; print(chart_folder())"
    done = run(client / "venv" / "bin" / "python", "-c", code, folder=client)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(client / "venv")
    for name in files_below(CHART):
        assert (folder / name).read_bytes() == (CHART / name).read_bytes(), name


def test_help_comes_without_the_trainers_packages(client: Path) -> None:
    done = distrain(client, "--help")
    assert done.returncode == 0, done.stderr
    assert "Trains a model" in done.stdout
    done = distrain(client, "train", "--help")
    assert done.returncode == 0 and "--batch.micro_batches" in done.stdout


def test_settings_are_checked_without_the_trainers_packages(client: Path) -> None:
    assert "tokens: 8192" in distrain(client, "validate", "--batch.tokens", "8192").stdout
    done = distrain(client, "validate", "--batch.tokns", "8192")
    assert done.returncode == 64 and "did you mean batch.tokens?" in done.stderr


@pytest.mark.parametrize("command", [("train",), ("evaluate", "out"), ("predict", "out"), ("preprocess",)])
def test_what_needs_the_trainer_says_what_to_install(client: Path, command: tuple[str, ...]) -> None:
    done = distrain(client, *command)
    assert done.returncode == 64
    said = (
        rf"distrain: distrain {command[0]} needs \w+, which is not installed; run pip install 'distrain\[trainer\]'\n"
    )
    assert re.fullmatch(said, done.stderr), done.stderr


def test_the_command_runs_in_a_checkout_too() -> None:
    code = "from distrain_k8s.render import chart_folder; print(chart_folder())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == CHART
