"""What runs cost on a GPU: peak memory beside the plan, throughput and MFU. The table goes to `_artifacts/gpu.md`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from costs import CASES, SCALES, Scale, Table, build_model, cost_of, flags, planned_bytes, settings_of, write_long_texts
from distrain_trainer.hardware.efficiency import peak_flops
from distrain_trainer.memory.advice import size
from distrain_trainer.memory.estimate import USED
from runs import Victim, end

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
FILES = {"cuda": "gpu.md", "cpu": "gpu-tried-on-a-cpu.md"}
WITHIN = 0.15
"""How far docs/memory.md lets the plan be from what is measured."""


@pytest.fixture(scope="module")
def scale(device: str) -> Scale:
    return SCALES[device]


@pytest.fixture(scope="module")
def model(scale: Scale, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    built = build_model(tmp_path_factory.mktemp("model"), scale)
    yield built
    shutil.rmtree(built)  # most of a gigabyte


@pytest.fixture(scope="module")
def long_texts(scale: Scale, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_texts(tmp_path_factory.mktemp("texts") / "long.jsonl", scale)


@pytest.fixture(scope="module")
def table(device: str, scale: Scale) -> Iterator[Table]:
    made = Table(device, scale, "make gpu-test")
    yield made
    artifacts = ROOT / "_artifacts"
    artifacts.mkdir(exist_ok=True)
    (artifacts / FILES[device]).write_text(str(made))


@pytest.mark.parametrize("name", CASES)
def test_a_run_takes_the_memory_that_is_planned_and_says_how_fast_it_is(
    name: str, device: str, scale: Scale, model: Path, long_texts: Path, table: Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    settings = settings_of(CASES[name], model, long_texts, output, scale)
    planned = planned_bytes(settings, device)
    if device == "cuda" and planned > USED * (there := torch.cuda.get_device_properties(0).total_memory):
        pytest.skip(f"{name} takes {size(planned)}, and the GPU has {size(there)}")
    end(Victim(["train", *flags(settings), "--processes", "1"], output))
    cost = cost_of(output, planned, scale)
    table.add(name, cost)
    shutil.rmtree(output)  # gigabytes
    if device == "cuda":
        assert abs(cost.off) <= WITHIN, f"planned {size(cost.planned)}, measured {size(cost.measured)}"
        known = peak_flops(torch.cuda.get_device_name(0), settings.get("precision", "fp32")) is not None
        assert (cost.mfu is not None and 0 < cost.mfu < 1) if known else cost.mfu is None
