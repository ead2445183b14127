"""`make gpu-test` on machines without a GPU: what it says there, and that its tests would run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import costs
import here
import ways
from distrain_trainer.settings.reader import read_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_without_a_gpu_it_says_so_before_it_makes_or_imports_anything(tmp_path: Path) -> None:
    """In a folder that has the Makefile and the file that looks, with a Python that has no packages."""
    asked = Path("tests/gpu/support/here.py")
    (tmp_path / asked).parent.mkdir(parents=True)
    for file in (Path("Makefile"), asked):
        shutil.copy(ROOT / file, tmp_path / file)
    before = sorted(tmp_path.rglob("*"))
    command = ["make", "gpu-test", f"PYTHON={sys.executable} -BISE"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = outside | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    said = done.stderr.splitlines()
    assert said[0] == "make gpu-test: no GPU here: CUDA_VISIBLE_DEVICES is '', which hides them all; unset it"
    assert len(said) == 2 and said[1].endswith("Error 64"), "make's own line follows"
    assert done.returncode and not done.stdout and sorted(tmp_path.rglob("*")) == before


def test_it_looks_for_what_drivers_make(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert here.missing(tmp_path, {}) == (
        "no GPU here: its driver makes /dev/nvidia0, /dev/dxg or /dev/kfd, and none of them is there"
    )
    (tmp_path / "nvidia3").touch()
    assert here.missing(tmp_path, {}) is None
    assert here.missing(tmp_path, {"CUDA_VISIBLE_DEVICES": "0"}) is None
    assert "hides them all" in str(here.missing(tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_torch_that_cannot_use_the_gpu_is_named() -> None:
    assert "this torch is a build for the CPU" in str(here.unusable()) or "finds no GPU" in str(here.unusable())


def test_every_way_to_train_is_accepted() -> None:
    base = {"data.files": "texts.jsonl", "model.name": "bert"}
    for case in ways.CASES.values():
        read_settings(None, base | ({"task": "causal-lm"} if case.decoder else {}) | case.options)
    for more in costs.CASES.values():
        settings = costs.settings_of(more, Path("model"), Path("texts"), Path("out"), costs.SCALES["cuda"])
        words = costs.flags(settings)
        read_settings(None, {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)})


def test_the_table_has_a_row_for_each_run_and_what_it_ran_on() -> None:
    table = costs.Table("cpu", costs.SCALES["cpu"], "make gpu-test")
    table.add("LoRA", costs.Cost(12_345.6, 0.0123, 0.4567, planned=2_200_000_000, measured=2_000_000_000))
    written = str(table)
    assert "`make gpu-test`" in written and f"torch {torch.__version__}" in written
    assert "| LoRA | 12,346 | 12.3 ms | 45.7% | 2.2 GB | 2.0 GB | - |\n" in written
    assert costs.Cost(1, 1, None, planned=2_200_000_000, measured=2_000_000_000).off == pytest.approx(0.1)


@pytest.mark.matrix
@pytest.mark.long
def test_the_tests_pass_on_a_cpu_with_small_models() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--device", "cpu", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout
