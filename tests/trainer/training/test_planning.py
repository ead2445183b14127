"""What a person is told of the plan before the run has cost its time."""

from pathlib import Path

import numpy as np
import pytest

from distrain_trainer.data.rows import Rows
from distrain_trainer.settings.model import Settings, nested
from distrain_trainer.training.planning import plan_of, plan_warnings, same_elsewhere
from runs import RunCommand


def rows_of(lengths: list[int]) -> Rows:
    return Rows(np.zeros(sum(lengths), np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def warnings_of(lengths: list[int], world: int = 1, **values: object) -> list[str]:
    named = {name.replace("__", "."): value for name, value in values.items()}
    settings = Settings.model_validate(nested({"batch.micro_batches": world} | named))
    return plan_warnings(plan_of(settings, rows_of(lengths)), settings, world)


def test_the_defaults_train_on_8_rows_a_process_however_short_they_are() -> None:
    settings = Settings.model_validate({"batch": {"micro_batches": 1}})
    plan = plan_of(settings, rows_of([12] * 5000))
    assert plan.steps == 3 * 5000 / 8
    assert {len(plan.step(number).rows) for number in range(100)} == {8}
    assert same_elsewhere(plan) == "set batch.micro_batches: 1 to take the same steps on other hardware"


@pytest.mark.parametrize(
    ("lengths", "values", "advice"),
    [
        ([12] * 5000, {"batch__samples": None}, "an epoch has only 16 steps of about 312 rows, and the run 48"),
        ([12] * 5000, {"batch__samples": None}, "set batch.samples: 8"),
        ([12] * 500, {"batch__samples": 64}, "set batch.samples: 8"),
        ([12] * 500, {"batch__micro_batches": 16, "world": 2}, "set batch.micro_batches: 2"),
        ([12] * 80, {}, "an epoch has only 10 steps of about 8 rows, and the run 30"),
        ([12] * 80, {}, "set schedule.epochs: 15"),
    ],
)
def test_few_steps_are_said_with_what_makes_more_of_them(
    lengths: list[int], values: dict[str, int], advice: str
) -> None:
    (sentence,) = warnings_of(lengths, **values)
    assert advice in sentence


@pytest.mark.parametrize("values", [{"schedule__epochs": 15}, {"schedule__max_steps": 20}])
def test_a_run_that_was_made_long_enough_or_short_on_purpose_is_not_talked_about(values: dict[str, int]) -> None:
    assert warnings_of([12] * 80, **values) == []


def test_much_padding_is_said_with_what_to_set() -> None:
    lengths = [500, 20] * 20
    (sentence,) = warnings_of(lengths, batch__samples=32, schedule__max_steps=9, batch__tokens=40_000)
    assert "of the tokens are padding" in sentence and "a lower batch.samples" in sentence
    (sentence,) = warnings_of(lengths, batch__samples=32, schedule__max_steps=9, batch__tokens=40_000, task="causal-lm")
    assert "set batch.packing: true, a lower batch.samples" in sentence
    assert warnings_of([500] * 400) == warnings_of([20, 500] * 400) == []


def test_a_start_says_the_line_that_makes_the_run_the_same_elsewhere(
    bert: Path, texts: Path, tmp_path: Path, run_command: RunCommand
) -> None:
    few = ("--data.evaluation_fraction", 0, "--schedule.epochs", "0.25", "--output_dir", tmp_path / "out")
    done = run_command("train", "--model.name", bert, "--data.files", texts, "--batch.samples", 64, *few)
    assert done.returncode == 0, done.stderr
    assert "set batch.micro_batches: 1 to take the same steps on other hardware" in done.stderr
    assert "distrain: an epoch has only" in done.stderr and "set batch.samples: 8" in done.stderr
    again = run_command(
        "train", "--model.name", bert, "--data.files", texts, "--batch.micro_batches", 2, *few, "--overwrite"
    )
    assert again.returncode == 0 and "on other hardware" not in again.stderr
