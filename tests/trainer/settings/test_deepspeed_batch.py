"""The batch of a DeepSpeed or Accelerate file: rows, accumulation and processes become micro-batches of a step."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_file import apply
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings

ROWS, STEP, ACCUMULATION = "train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps"


def deepspeed(folder: Path, **keys: Any) -> str:
    """A DeepSpeed file of stage 2 with these keys."""
    path = folder / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}} | keys))
    return str(path)


def accelerate(folder: Path, processes: int, accumulation: int | str, inner: dict[str, Any] | None = None) -> str:
    """What `accelerate config` writes for DeepSpeed; inner: keys of a DeepSpeed file that it names."""
    block: dict[str, Any] = {"gradient_accumulation_steps": accumulation}
    if inner is None:
        block["zero_stage"] = 2
    else:
        block["deepspeed_config_file"] = deepspeed(folder, **inner)
    path = folder / "accelerate.yaml"
    path.write_text(
        yaml.safe_dump({"distributed_type": "DEEPSPEED", "num_processes": processes, "deepspeed_config": block})
    )
    return str(path)


def batch(path: str, **flags: str) -> tuple[int | None, int | None]:
    """(batch.samples, batch.micro_batches) of a run with this file, which a second look at them leaves as they are."""
    settings = read_settings(None, {name.replace("__", "."): text for name, text in flags.items()} | file(path), {})
    assert apply(settings)[0] == settings
    return settings.batch.samples, settings.batch.micro_batches


def file(path: str) -> dict[str, str]:
    return {"strategy.config": path}


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({ROWS: 4}, (4, None)),
        ({ACCUMULATION: 1}, (8, None)),
        ({ROWS: 4, STEP: 64}, (4, 16)),
        ({ROWS: 4, STEP: 64, ACCUMULATION: 8}, (4, 16)),
        ({ROWS: 4, STEP: 64, ACCUMULATION: "auto"}, (4, 16)),
        ({ROWS: "4", STEP: "64"}, (4, 16)),
        ({STEP: 64}, (8, 8)),
        ({STEP: 64, ACCUMULATION: 16}, (4, 16)),
        ({STEP: 30}, (6, 5)),
        ({STEP: 7}, (7, 1)),
        ({STEP: 11}, (1, 11)),
    ],
)
def test_a_step_of_deepspeeds_is_as_many_rows_here(
    keys: dict[str, Any], found: tuple[int | None, int | None], tmp_path: Path
) -> None:
    assert batch(deepspeed(tmp_path, **keys)) == found


@pytest.mark.parametrize(("processes", "accumulation"), [(2, 8), (8, 4)])
def test_accumulation_is_counted_over_all_processes(processes: int, accumulation: int, tmp_path: Path) -> None:
    assert batch(accelerate(tmp_path, processes, accumulation)) == (8, processes * accumulation)


def test_what_a_file_leaves_open_is_decided_by_what_was_set(tmp_path: Path) -> None:
    assert batch(deepspeed(tmp_path, **{ACCUMULATION: 8}), batch__micro_batches="16") == (8, 16)
    assert batch(deepspeed(tmp_path, **{STEP: 64}), batch__micro_batches="16") == (4, 16)
    assert batch(deepspeed(tmp_path, **{STEP: 64}), batch__samples="16") == (16, 4)
    assert batch(deepspeed(tmp_path, **{STEP: 64, ACCUMULATION: 2}), batch__samples="16") == (16, 4)


@pytest.mark.parametrize(("rows", "accumulation", "processes"), [*product((1, 3), (1, 2, 4), (1, 2, 6))])
def test_any_two_of_the_three_are_enough_where_processes_are_known(
    rows: int, accumulation: int, processes: int, tmp_path: Path
) -> None:
    """As in DeepSpeed's own `_set_batch_related_parameters`."""
    whole = {ROWS: rows, STEP: rows * accumulation * processes, ACCUMULATION: accumulation}
    for left_out in (None, ROWS, STEP, ACCUMULATION):
        inner = {name: value for name, value in whole.items() if name not in (left_out, ACCUMULATION)}
        outer = "auto" if left_out == ACCUMULATION else accumulation
        found = batch(accelerate(tmp_path, processes, outer, inner))
        micro_batches = accumulation * processes
        assert found == (rows, None if left_out == STEP and accumulation == 1 else micro_batches)


REFUSED: list[tuple[dict[str, Any], dict[str, str], str]] = [
    (
        {ACCUMULATION: 8},
        {},
        "gradient_accumulation_steps 8 in {} is per process, and the file does not say of how many; set "
        "batch.micro_batches to 8 times their number, such as batch.micro_batches: 16 for 2",
    ),
    ({ACCUMULATION: 8}, {"batch.micro_batches": "12"}, "batch.micro_batches is 12, which is not a multiple of"),
    ({ROWS: 4, STEP: 10}, {}, "train_batch_size 10 in {} is not a multiple of train_micro_batch_size_per_gpu 4; "),
    ({ROWS: 4, STEP: 12, ACCUMULATION: 2}, {}, "of train_micro_batch_size_per_gpu 4 x gradient_accumulation_steps 2"),
    ({STEP: 10}, {"batch.micro_batches": "4"}, "train_batch_size 10 in {} is not a multiple of batch.micro_batches 4"),
    ({STEP: 12, ACCUMULATION: 2}, {"batch.samples": "4"}, "of gradient_accumulation_steps 2 x batch.samples 4"),
    ({ROWS: 4}, {"batch.samples": "8"}, "batch.samples is 8 but {} says train_micro_batch_size_per_gpu 4"),
    ({ROWS: 0}, {}, "train_micro_batch_size_per_gpu in {} is 0, but it should be a whole number from 1, or auto"),
    ({STEP: 1.5}, {}, "train_batch_size in {} is 1.5, but it should be a whole number"),
    ({ACCUMULATION: True}, {}, "gradient_accumulation_steps in {} is True, but it should be a whole number"),
]


@pytest.mark.parametrize(("keys", "flags", "sentence"), REFUSED)
def test_a_batch_that_does_not_work_out_is_refused(
    keys: dict[str, Any], flags: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    path = deepspeed(tmp_path, **keys)
    with pytest.raises(SettingsError) as refused:
        read_settings(None, flags | file(path), {})
    assert sentence.format(path) in str(refused.value) and "\n" not in str(refused.value)


def test_numbers_of_two_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    whole = {ROWS: 4, STEP: 64}
    with pytest.raises(SettingsError, match="contradict each other: a step would have 96 rows"):
        batch(accelerate(tmp_path, 3, 8, whole))
    with pytest.raises(
        SettingsError, match="gradient_accumulation_steps 8 and gradient_accumulation_steps 4 contradict"
    ):
        batch(accelerate(tmp_path, 2, 8, {ACCUMULATION: 4}))
    with pytest.raises(SettingsError, match=r"gradient_accumulation_steps 8 x num_processes 3; change"):
        batch(accelerate(tmp_path, 3, 8, {STEP: 64}))


def test_a_number_of_processes_that_accelerate_does_not_know_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not say of how many"):
        batch(accelerate(tmp_path, -1, 8))
    assert Settings().batch.micro_batches is None
