"""The same from Python: train, evaluate and predict, with frozen results and the exceptions of `errors`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distrain_trainer
from distrain_trainer import Prediction, evaluate, predict, train
from distrain_trainer.api import _error, _flags, _tree
from distrain_trainer.errors import DataError, DistrainError, SettingsError, Stopped
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.run import run

SMALL: dict[str, Any] = {
    "data": {"evaluation_fraction": 0.15},
    "batch": {"tokens": 256, "micro_batches": 2},
    "schedule.max_steps": 4,
}


@pytest.mark.matrix
def test_a_run_comes_back_as_its_results(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    """From a mapping and keywords, in a process of its own; its lines come one by one."""
    said: list[str] = []
    output = str(tmp_path / "out")
    data = {"files": [str(few_texts)]}
    result = train(SMALL, model={"name": str(bert)}, data=data, output_dir=output, tell=said.append)
    assert result.steps == 4 and result.metrics["accuracy"] >= 0 and result.best is not None
    assert result.model.samefile(result.folder / "final") and result.record["status"] == "finished"
    assert any(line.startswith("done: 4 steps") for line in said)
    with pytest.raises(SettingsError):
        train(SMALL, output_dir=output, tell=lambda line: None)


def test_a_trained_model_is_evaluated_and_predicts(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    asked = {"model": {"name": str(bert)}, "data": {"files": [str(few_texts)]}, "output_dir": str(tmp_path)}
    session = run(Settings.model_validate(_tree(SMALL, asked)), resume=False)
    assert session is not None and session.evaluation is not None
    found = evaluate(tmp_path)
    assert found.metrics["accuracy"] == pytest.approx(session.evaluation.metrics["accuracy"]) and found.rows == 18
    assert evaluate(tmp_path, few_texts, evaluation={"samples": 7}).rows == 7
    texts = [json.loads(line)["text"] for line in few_texts.read_text().splitlines()[:3]]
    said = predict(tmp_path, texts)
    assert [prediction["text"] for prediction in said] == texts
    assert all(isinstance(one, Prediction) and one["label"] in one["scores"] for one in said)
    assert predict(tmp_path, [{"text": texts[0], "more": 1}]) == said[:1]
    assert predict(tmp_path, few_texts)[:3] == said and predict(tmp_path, []) == []
    with pytest.raises(DataError, match="does not exist"):
        evaluate(tmp_path / "nowhere")


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
