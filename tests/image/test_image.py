"""The real image in the real engine: what `docker run` or `podman run` does with it, as whichever user."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE")
CONTEXT = ("image", "trainer", "k8s", "charts", *PACKAGE)
TRAIN = ("train", "--schedule.max_steps", "2", "--batch.tokens", "512", "--evaluation.samples", "16")
OPENSHIFT = ("--user", "1000620000:0", "--cap-drop", "all", "--security-opt", "no-new-privileges")


def answers(engine: str) -> bool:
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


ENGINE = next(filter(answers, ("docker", "podman")), None)
pytestmark = pytest.mark.skipif(ENGINE is None, reason="neither docker nor podman answers")


def build(folder: Path, image: str) -> str:
    """Builds the cpu target from the project in this folder; returns what the build prints."""
    environment = os.environ | {"TARGET": "cpu", "IMAGE": image, "ENGINE": str(ENGINE)}
    command = [folder / "image/build"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800)
    text = done.stdout.decode()
    assert done.returncode == 0, text[-4000:]
    return text


def engine(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ENGINE), *arguments], capture_output=True, text=True, timeout=timeout)


def run(image: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`docker run` without a network: nothing of this needs one."""
    return engine("run", "--rm", "--network", "none", *options, image, *arguments)


def inspect(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine("image", "inspect", image).stdout)[0]
    return found


@pytest.fixture(scope="module")
def image() -> str:
    name = "distrain:test-cpu"
    build(PROJECT, name)
    return name


@pytest.fixture(scope="module")
def cuda_system(image: str) -> str:
    """The system of the target cuda, without the gigabytes of torch."""
    name = "distrain:test-cuda-system"
    base = inspect(image)["Config"]["Labels"]["org.opencontainers.image.base.name"]
    dockerfile = PROJECT / "image" / "Dockerfile"
    options = ["--network", "host", "--ignorefile", f"{dockerfile}.dockerignore"] if ENGINE == "podman" else []
    command = ("build", "--file", str(dockerfile), "--target", "cuda-system", "--tag", name, *options)
    done = engine(*command, "--build-arg", f"BASE_IMAGE={base}", str(PROJECT), timeout=1800)
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for /out that any user may write."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def test_version(image: str) -> None:
    done = run(image, "version", "--json")
    assert done.returncode == 0, done.stderr
    versions = json.loads(done.stdout)
    pinned = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line)
    for package in ("torch", "transformers", "accelerate", "datasets"):
        assert versions[package].partition("+")[0] == pinned[package]


def test_configuration(image: str) -> None:
    found = inspect(image)
    configuration = found["Config"]
    assert configuration["User"] == "1000:1000"
    assert configuration["Entrypoint"] == ["env", "--block-signal=TERM", "distrain"]
    assert configuration["Cmd"] == ["train"]
    # where GKE mounts the driver, and no empty entry, which would be the working folder
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64" in configuration["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in configuration["Labels"].items()}
    assert labels["title"] == "distrain"
    assert {"version", "revision", "description", "base.name"} <= set(labels)


def test_size(image: str) -> None:
    if "+cpu" not in run(image, "version", "--json").stdout:
        pytest.skip("torch is the CUDA build: set WHEELS to a folder with the CPU's wheel")
    assert inspect(image)["Size"] < 1.75e9


def test_carries_no_tools_and_no_secrets(image: str) -> None:
    look = "command -v pip gcc; ls -A /run/secrets; find / -xdev -name pip.conf"
    done = run(image, "-c", look, options=("--entrypoint", "sh"))
    assert done.stdout == ""
    assert not [line for line in inspect(image)["Config"]["Env"] if "CERT" in line or "INDEX" in line]


def test_cuda_has_a_compiler_and_the_libraries_that_nccl_opens_for_rdma(cuda_system: str) -> None:
    load = (
        "import ctypes, shutil; ctypes.CDLL('libibverbs.so.1'); ctypes.CDLL('libmlx5.so.1'); print(shutil.which('g++'))"
    )
    done = run(cuda_system, "-c", load, options=("--entrypoint", "python3"))
    assert done.stdout.strip() == "/usr/bin/g++", done.stderr


def test_trains_the_sample_without_a_gpu(image: str, out: Path) -> None:
    done = run(image, *TRAIN, options=("-v", f"{out}:/out"))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "training_info.json").read_text())["status"] == "finished"
    assert (out / "final/config.json").stat().st_uid == 1000


def test_trains_as_any_user_of_group_0(image: str) -> None:
    done = run(image, *TRAIN, options=OPENSHIFT)
    assert done.returncode == 0, done.stderr


def test_a_mounted_file_says_where_results_go(image: str, out: Path) -> None:
    (out / "run.yaml").write_text("output_dir: /out/mine\n")
    done = run(image, "train", "/out/run.yaml", *TRAIN[1:], options=("-v", f"{out}:/out"))
    assert done.returncode == 0, done.stderr
    assert (out / "mine/training_info.json").exists()


def test_trains_with_a_read_only_root(image: str, out: Path) -> None:
    writable = ("-v", f"{out}:/out", "--tmpfs", "/cache", "--tmpfs", "/tmp")
    strict = ("--read-only", "--read-only-tmpfs=false", "--passwd=false") if ENGINE == "podman" else ("--read-only",)
    done = run(image, *TRAIN, "--processes", "2", options=(*OPENSHIFT, *strict, *writable))
    assert done.returncode == 0, done.stderr
    assert (out / "final/config.json").stat().st_uid == 1000620000


def test_trains_as_a_sagemaker_job(image: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("input/config", "input/data", "output", "model", "checkpoints")]
    for folder in (tmp_path, *folders):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
    hyperparameters = {"schedule.max_steps": "2", "batch.tokens": "512", "evaluation.samples": "16"}
    (folders[0] / "hyperparameters.json").write_text(json.dumps(hyperparameters | {"model.name": '"sample"'}))
    (folders[0] / "resourceconfig.json").write_text('{"current_host": "algo-1", "hosts": ["algo-1"]}')
    done = run(image, "train", options=("-v", f"{tmp_path}:/opt/ml"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model/config.json").exists() and (tmp_path / "output/data/report.html").exists()
    assert not (tmp_path / "output/failure").exists()
    (folders[0] / "hyperparameters.json").write_text('{"batch.tokn": "512"}')
    assert run(image, "train", options=("-v", f"{tmp_path}:/opt/ml")).returncode == 64
    assert (tmp_path / "output/failure").read_text().startswith("the hyperparameter batch.tokn is not a setting")


@pytest.fixture
def container(image: str, out: Path) -> Iterator[str]:
    """A long run in the background, without a supervisor of the engine's: distrain is process 1."""
    started = engine("run", "-d", "--network", "none", "-v", f"{out}:/out", image, "train", "--batch.tokens", "512")
    name = started.stdout.strip()
    yield name
    engine("rm", "-f", name)


def test_sigterm_leaves_a_checkpoint_and_143(container: str, out: Path) -> None:
    with subprocess.Popen([str(ENGINE), "logs", "-f", container], stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        assert any('"loss"' in line for line in logs.stdout), "the run ended before its first step"
        engine("stop", "--time", "60", container)
        logs.kill()
    assert json.loads(engine("inspect", container).stdout)[0]["State"]["ExitCode"] == 143
    assert list(out.glob("checkpoint-*/manifest.json"))


def test_unwritable_out_is_one_sentence(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = run(image, "train", options=("-v", f"{tmp_path}:/out"))
    assert done.returncode == 74
    assert done.stderr.startswith(
        "distrain: output_dir /out cannot be written: Permission denied, because this process runs as"
    )
    assert done.stderr.count("\n") == 1


def test_small_shared_memory_is_one_sentence(image: str, out: Path) -> None:
    options = ("-v", f"{out}:/out", "--shm-size", "1m")
    done = run(image, *TRAIN, "--data.workers", "1", options=options)
    assert done.returncode == 74
    assert done.stderr.startswith("distrain: /dev/shm has 1 MB")
    assert done.stderr.count("\n") == 1


def test_a_code_change_is_one_small_layer(image: str, tmp_path: Path) -> None:
    changed = "distrain:test-changed"
    for source in filter(Path.exists, (PROJECT / name for name in CONTEXT)):
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, tmp_path / source.name)
    with (tmp_path / "trainer/distrain_trainer/__init__.py").open("a") as file:
        file.write("# changed\n")
    build(tmp_path, changed)
    try:
        before, after = inspect(image), inspect(changed)
        assert before["RootFS"]["Layers"][:-1] == after["RootFS"]["Layers"][:-1]
        assert before["RootFS"]["Layers"][-1] != after["RootFS"]["Layers"][-1]
    finally:
        engine("rmi", changed)
