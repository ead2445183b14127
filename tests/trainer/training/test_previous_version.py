"""The folder of a run of version 0.1.0 is resumed, evaluated and predicts today. `make_previous.py` has made it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.storage.layout import published_checkpoints
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.training.run import run

PREVIOUS = Path(__file__).parents[1] / "support" / "previous"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, in which the test works."""
    shutil.copytree(PREVIOUS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(resume: bool, **flags: str) -> None:
    """Runs run.yaml in this process."""
    run(read_settings("run.yaml", flags, environment={}), resume=resume)


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of each training line."""
    lines: list[dict[str, Any]] = read_metrics(folder / "metrics.jsonl")
    return [(line["step"], line["loss"]) for line in lines if "loss" in line and "event" not in line]


def test_it_resumes_and_takes_the_steps_that_a_run_of_today_takes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = losses(here / "out")
    train(resume=True, **{"schedule.max_steps": "8"})
    assert "resuming from checkpoint-4" in capsys.readouterr().err
    train(resume=False, **{"schedule.max_steps": "8", "output_dir": "today"})
    after, today = losses(here / "out"), losses(here / "today")
    assert after[:4] == before and [step for step, _ in after] == list(range(1, 9))
    assert dict(after) == pytest.approx(dict(today), abs=1e-5)
    assert [path.name for path in published_checkpoints(here / "out")] == ["checkpoint-8", "checkpoint-6"]


def test_it_is_evaluated_to_what_it_measured_itself(here: Path) -> None:
    (kept,) = [
        line for line in read_metrics(here / "out" / "metrics.jsonl") if line.get("step") == 4 and "eval_loss" in line
    ]
    found = evaluate_folder("out", None, {})
    assert found["rows"] == 10
    assert {name: found[name] for name in ("loss", "accuracy", "f1_macro")} == pytest.approx(
        {name: kept[f"eval_{name}"] for name in ("loss", "accuracy", "f1_macro")}, abs=1e-5
    )


@pytest.mark.parametrize("checkpoint", [None, "best", "4"])
def test_it_predicts_from_each_of_its_models(
    here: Path, checkpoint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_folder("out", "texts.jsonl", None, None, {}, checkpoint)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 40 and {row["label"] for row in said} <= {"animals", "films", "numbers"}
