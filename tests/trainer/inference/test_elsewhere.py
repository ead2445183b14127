"""Models that no run has made are evaluated and predict as they are: a base model, and one of transformers' Trainer."""

import json
from pathlib import Path

import pytest
import torch
from pytest import CaptureFixture
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.inference.predict import predict_folder


def test_a_base_model_has_the_loss_that_transformers_computes(llama: Path, few_texts: Path) -> None:
    found = evaluate_folder(str(llama), str(few_texts), {"task": "causal-lm"})
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama).eval(), AutoTokenizer.from_pretrained(llama)
    total, targets = 0.0, 0
    for line in few_texts.read_text().splitlines():
        ids = [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
        for start in range(0, len(ids), 128):
            window = torch.tensor([ids[start : start + 128]])
            with torch.no_grad():
                if window.shape[1] > 1:
                    total += float(model(window, labels=window).loss) * (window.shape[1] - 1)
                    targets += window.shape[1] - 1
    assert found["loss"] == pytest.approx(total / targets, rel=1e-3)


@pytest.mark.parametrize("named", [True, False])
def test_a_classifier_of_another_trainer_is_evaluated_by_its_labels(
    bert: Path, few_texts: Path, tmp_path: Path, named: bool, capsys: CaptureFixture[str]
) -> None:
    names = ("animals", "films", "numbers")
    about = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}} if named else {}
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3, **about).eval()
    model.save_pretrained(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path / "other")
    rows = [json.loads(line) for line in few_texts.read_text().splitlines()]
    if not named:
        rows = [row | {"label": names.index(row["label"])} for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with torch.no_grad():
        logits = [
            model(**tokenizer(row["text"], truncation=True, max_length=128, return_tensors="pt")).logits for row in rows
        ]
    guessed = [int(each.argmax()) for each in logits]
    right = sum(row["label"] == (names[guess] if named else guess) for row, guess in zip(rows, guessed, strict=True))
    flags = {"task": "sequence-classification"}
    assert evaluate_folder(str(tmp_path / "other"), str(file), flags)["accuracy"] == pytest.approx(right / len(rows))
    capsys.readouterr()
    predict_folder(str(tmp_path / "other"), str(file), None, 1, flags)
    said = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert said == [names[guess] if named else str(guess) for guess in guessed]


def test_a_model_without_the_tasks_head_is_refused(bert: Path, few_texts: Path) -> None:
    with pytest.raises(SettingsError, match="was not trained for sequence-classification: it lacks"):
        evaluate_folder(str(bert), str(few_texts), {"task": "sequence-classification"})


def test_without_a_task_or_data_it_is_said_what_to_give(llama: Path) -> None:
    with pytest.raises(DataError, match="--task for a model that was made elsewhere"):
        evaluate_folder(str(llama), None, {})
    with pytest.raises(DataError, match="give a file to evaluate on"):
        evaluate_folder(str(llama), None, {"task": "causal-lm"})
