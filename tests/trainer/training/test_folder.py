"""The run's folder itself loads as a model, and its records have the names that people's scripts read."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distrain_trainer.inference.trained import model_folder
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.layout import links_to_final
from distrain_trainer.storage.previous import name_for_previous, set_aside
from distrain_trainer.training.run import run
from runs import metrics


@pytest.fixture(scope="module")
def whole(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a whole model, whose folder held two files of a person before."""
    output = tmp_path_factory.mktemp("whole")
    (output / "config.json").write_text("mine")
    (output / "README.md").write_text("mine too")
    run(settings(bert, few_texts, output, 1), resume=False)
    return output


def settings(model: Path, texts: Path, output: Path, epochs: int) -> Settings:
    asked: dict[str, Any] = {
        "model": {"name": str(model)},
        "data": {"files": [str(texts)], "evaluation_fraction": 0.15},
        "batch": {"tokens": 256, "samples": 8, "micro_batches": 2},
        "schedule": {"epochs": epochs},
        "output_dir": str(output),
    }
    return Settings.model_validate(asked)


def test_an_adapter_loads_from_the_runs_folder_itself(lora: Path, bert: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3)
    model = PeftModel.from_pretrained(base, str(lora))
    trained = {name: tensor for name, tensor in model.state_dict().items() if "lora_B" in name}
    assert trained and all(tensor.any() for tensor in trained.values())
    assert AutoTokenizer.from_pretrained(lora).vocab_size == AutoTokenizer.from_pretrained(bert).vocab_size


def test_a_longer_run_leaves_its_own_model_there(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    for epochs in (1, 2):
        run(settings(bert, few_texts, tmp_path, epochs), resume=True)
        info = json.loads((tmp_path / "final_training_info.json").read_text())
        assert (info["epoch"], info["global_step"]) == (epochs, info["steps"])
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").samefile(tmp_path / "final" / "model.safetensors")


def test_files_of_a_person_stay(whole: Path) -> None:
    assert (whole / "config.json").read_text() == "mine" and (whole / "README.md").read_text() == "mine too"
    assert {path.name for path in links_to_final(whole)} >= {"model.safetensors", "tokenizer.json"}


def test_commands_on_a_runs_folder_take_final(whole: Path, lora: Path) -> None:
    assert model_folder(str(whole)) == whole / "final"
    assert model_folder(str(lora)) == lora / "final"
    assert model_folder(str(lora / "final")) == lora / "final"


def test_the_records_have_the_names_that_scripts_read(whole: Path) -> None:
    info = json.loads((whole / "training_info.json").read_text())
    losses = [line["eval_loss"] for line in metrics(whole) if "eval_loss" in line]
    wanted = {
        "model_name": info["model"],
        "dataset_name": info["dataset"],
        "global_step": info["steps"],
        "best_eval_loss": min(losses),
        "world_size": 1,
        "batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": Settings().optimizer.learning_rate,
        "epoch": 1,
    }
    assert info.items() >= wanted.items()
    assert 0 < info["effective_batch_size"] <= 16
    assert json.loads((whole / "final_training_info.json").read_text()) == info


def test_a_replaced_run_takes_its_links_with_it_and_nothing_else(whole: Path) -> None:
    """The last test of this fixture."""
    name = name_for_previous(whole)
    set_aside(whole, name, attempt=9)
    assert {path.name for path in whole.iterdir()} - {"attempt.json"} == {"README.md", "config.json", name}
    assert model_folder(str(whole / name)) == whole / name / "final"
    assert links_to_final(whole / name)
