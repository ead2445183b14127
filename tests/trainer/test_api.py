"""The same from Python: train, evaluate and predict, with frozen results and the exceptions of `errors`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distrain_trainer
from distrain_trainer import Prediction, TrainingResult, evaluate, predict, train
from distrain_trainer.api import _error, _flags, _tree
from distrain_trainer.errors import DataError, DistrainError, SettingsError, Stopped
from distrain_trainer.settings.model import Settings

SMALL: dict[str, Any] = {
    "data": {"evaluation_fraction": 0.15},
    "batch": {"tokens": 256, "micro_batches": 2},
    "schedule.max_steps": 4,
}


@pytest.fixture(scope="module")
def trained(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, list[str]]:
    """A run from a mapping and keywords, and the lines that it printed."""
    said: list[str] = []
    result = train(
        SMALL,
        model={"name": str(bert)},
        data={"files": [str(few_texts)]},
        output_dir=str(tmp_path_factory.mktemp("api") / "out"),
        tell=said.append,
    )
    return result, said


def test_a_run_comes_back_as_its_results(trained: tuple[TrainingResult, list[str]]) -> None:
    result, said = trained
    assert result.steps == 4 and result.metrics["accuracy"] >= 0 and result.best is not None
    assert result.model.samefile(result.folder / "final") and result.record["status"] == "finished"
    assert any(line.startswith("done: 4 steps") for line in said)
    with pytest.raises(SettingsError):
        train(SMALL, output_dir=str(result.folder), tell=lambda line: None)


def test_a_trained_model_is_evaluated_and_predicts(trained: tuple[TrainingResult, list[str]], few_texts: Path) -> None:
    result, _ = trained
    found = evaluate(result.folder)
    assert found.metrics["accuracy"] == pytest.approx(result.metrics["accuracy"]) and found.rows == 18
    assert evaluate(result.folder, few_texts, evaluation={"samples": 7}).rows == 7
    texts = [json.loads(line)["text"] for line in few_texts.read_text().splitlines()[:3]]
    said = predict(result.folder, texts)
    assert [prediction["text"] for prediction in said] == texts
    assert all(
        isinstance(prediction, Prediction) and prediction["label"] in prediction["scores"] for prediction in said
    )
    assert predict(result.folder, [{"text": texts[0], "more": 1}]) == said[:1]
    assert predict(result.folder, few_texts)[:3] == said and predict(result.folder, []) == []
    with pytest.raises(DataError, match="does not exist"):
        evaluate(result.folder / "nowhere")


def test_settings_come_from_a_file_a_mapping_or_keywords(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("batch: {tokens: 512}\nschedule: {epochs: 2}\n")
    assert _tree(str(file), {"batch": {"samples": 4}}) == {
        "batch": {"tokens": 512, "samples": 4},
        "schedule": {"epochs": 2},
    }
    assert _tree(Settings(task="chat"), {"seed": 1}) == {"task": "chat", "seed": 1}
    assert _flags({"data": {"files": ["a", "b"], "name": None}, "deterministic": True}) == {
        "data.files": '["a", "b"]',
        "data.name": "null",
        "deterministic": "true",
    }
    with pytest.raises(SettingsError, match="is not a setting"):
        train(batch={"size": 3})


def test_an_exit_code_becomes_its_exception() -> None:
    assert isinstance(_error(143, "stopped"), Stopped) and str(_error(143, "stopped")) == "stopped"
    lost = _error(138, "")
    assert type(lost) is DistrainError and lost.exit_code == 138 and "138" in str(lost)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, distrain_trainer.api; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError):
        _ = distrain_trainer.nothing
