"""`accelerate launch` starts distrain's workers by each of the example files, which says how they are wrapped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrain_trainer.__main__ import forget_wrapping
from runs import losses

ACCELERATE = Path(__file__).parents[2] / "examples" / "accelerate"
KINDS = {"multi-gpu": "ddp", "fsdp": "fsdp", "zero2": "zero2", "zero3": "zero3"}


def test_every_file_is_tested() -> None:
    assert {file.stem for file in ACCELERATE.iterdir()} == set(KINDS)


def test_a_worker_forgets_what_a_launcher_says_of_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    forget_wrapping()
    assert {"ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING", "LOCAL_RANK"} & {*os.environ} == {"LOCAL_RANK"}


@pytest.mark.examples
@pytest.mark.parametrize("name", KINDS)
def test_accelerate_starts_the_workers_by_each_of_its_files(
    name: str, bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    file = str(ACCELERATE / f"{name}.yaml")
    settings = {
        "model": {"name": str(bert)},
        "data": {"files": str(few_texts)},
        "batch": {"tokens": 256, "micro_batches": 4},
        "schedule": {"max_steps": 4},
        "strategy": {"config": file, "offload_optimizer": False, "offload_parameters": False},
        "output_dir": str(tmp_path / "out"),
    }
    if name == "zero3":  # without a GPU there is nothing to offload from
        (tmp_path / "zero3.yaml").write_text(Path(file).read_text().replace("device: cpu", "device: none"))
        settings["strategy"] = {"config": str(tmp_path / "zero3.yaml")}
        file = str(tmp_path / "zero3.yaml")
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*launcher, "-m", "distrain_trainer", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "out")) == 4
    written = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (written["world_size"], written["settings"]["strategy"]["kind"]) == (2, KINDS[name])
