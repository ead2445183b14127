"""Rows with a number, and with one of a few levels."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from transformers import AutoModelForSequenceClassification, pipeline

from distrain_trainer.data.loader import Collator
from distrain_trainer.errors import DataError
from distrain_trainer.metrics import metrics
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.losses import squared_error
from distrain_trainer.tasks.regression import described_numbers, nearest, score_levels
from distrain_trainer.training.run import run
from labelled import evaluated, predicted, rows_of, settings_of, stars, written
from tokenizing import BERT, refusal, tokenized
from tokenizing import settings_of as data_settings

TASKS = ("regression", "ordinal-regression")
LEVELS = ("0", "1", "2.5", "4")


def numbered(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": "the cat", "label": label} for label in labels]


def test_numbers_are_learned_as_they_are(tmp_path: Path) -> None:
    made = tokenized(tmp_path, numbered(3.8, -1, 0, 2.5), "regression", BERT)
    assert made.label_names == () and made.train.labels.dtype == np.float32
    assert made.train.labels.tolist() == pytest.approx([3.8, -1, 0, 2.5])
    (tmp_path / "a.csv").write_text("sentence,score\nthe cat,5.0\nthe dog,2\n")
    made = tokenized(tmp_path, [], "regression", BERT, files=[str(tmp_path / "a.csv")])
    assert made.train.labels.tolist() == [5.0, 2.0]


def test_levels_are_named_by_their_numbers(tmp_path: Path) -> None:
    made = tokenized(tmp_path, numbered(10, 2, 2.5, 2), "ordinal-regression", BERT)
    assert made.label_names == ("2", "2.5", "10")
    assert made.train.labels.tolist() == [10, 2, 2.5, 2]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ((1.0, None), "1 of 2 training rows have no label in column 'label' (it is null), the first is"),
        ((1.0, "much"), ".jsonl, line 2 has 'much' in column 'label', but labels of a regression are numbers; name"),
        ((True, False), ".jsonl, line 1 has True in column 'label', but labels of a regression are numbers"),
        ((2, 2.0), "every training row has 2"),
    ],
)
def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, task: str, labels: Any, told: str) -> None:
    assert told in refusal(DataError, tmp_path, numbered(*labels), task, BERT)


def test_many_levels_are_a_regression(tmp_path: Path) -> None:
    sentence = refusal(DataError, tmp_path, numbered(*range(101)), "ordinal-regression", BERT)
    assert "has 101 different numbers, but ordinal-regression is for at most 100 levels; set task to regr" in sentence


def test_levels_are_stratified_and_those_of_evaluation_alone_refused(tmp_path: Path) -> None:
    rows = numbered(*([1] * 30 + [2] * 10))
    made = tokenized(tmp_path, rows, "ordinal-regression", BERT, evaluation_fraction=0.2)
    assert sorted(made.evaluation.labels.tolist()) == [1.0] * 6 + [2.0] * 2
    rows = [{"text": "cat", "label": n, "part": part} for n, part in ((1, "train"), (2, "train"), (3, "test"))]
    sentence = refusal(DataError, tmp_path, rows, "ordinal-regression", BERT, split_column="part")
    assert "labels in the evaluation rows but not in the training rows: '3'; add training rows" in sentence
    assert tokenized(tmp_path, rows, "regression", BERT, split_column="part").evaluation.labels.tolist() == [3.0]


def test_what_only_classes_have_is_refused_for_numbers() -> None:
    for task in TASKS:
        with pytest.raises(ValueError, match=f"label_smoothing is for classes but task {task} learns numbers"):
            Settings.model_validate({"task": task, "loss": {"label_smoothing": 0.1}})
        with pytest.raises(ValueError, match=f"class_weights is for tasks with classes but task is {task}"):
            Settings.model_validate({"task": task, "loss": {"class_weights": "balanced"}})


def test_the_start_tells_of_numbers_that_are_slow_to_learn() -> None:
    told = described_numbers(np.asarray([0, 5, 2.5], np.float32))
    assert told == "labels: from 0 to 5, mean 2.5, standard deviation 2.041"
    assert described_numbers(np.asarray([1e5, 2e5], np.float32)).endswith("are learned in fewer steps, so divide these")


numbers = st.lists(st.tuples(*[st.integers(-20, 20).map(lambda n: n / 4)] * 2), min_size=2, max_size=40)


@given(numbers)
def test_metrics_are_those_of_scikit_learn_and_scipy(pairs: list[tuple[float, float]]) -> None:
    predicted, true = map(list, zip(*pairs, strict=True))
    found = metrics.regression_metrics(predicted, true)
    assert ("loss", *found) == metrics.REGRESSION_METRICS
    wanted = {
        "mse": sklearn_metrics.mean_squared_error(true, predicted),
        "mae": sklearn_metrics.mean_absolute_error(true, predicted),
        "r2": sklearn_metrics.r2_score(true, predicted),
    }
    constant = len(set(predicted)) == 1 or len(set(true)) == 1  # scipy warns, and gives NaN
    wanted["pearson"] = math.nan if constant else scipy.stats.pearsonr(predicted, true).statistic
    wanted["spearman"] = math.nan if constant else scipy.stats.spearmanr(predicted, true).statistic
    assert found == pytest.approx(wanted, nan_ok=True, abs=1e-9)


@given(st.lists(st.tuples(st.floats(-1, 6), st.sampled_from([float(level) for level in LEVELS])), min_size=1))
def test_metrics_of_levels_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    predicted, true = map(list, zip(*pairs, strict=True))
    found = score_levels(predicted, true, LEVELS)
    assert {"loss", *found.metrics} == set(metrics.ORDINAL_METRICS)
    near = [min(LEVELS, key=lambda level: abs(float(level) - value)) for value in predicted]
    wanted = [min(LEVELS, key=lambda level: abs(float(level) - value)) for value in true]
    assert found.metrics["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(wanted, near))
    counts = sklearn_metrics.confusion_matrix(wanted, near, labels=LEVELS)
    assert found.details["confusion_matrix"]["counts"] == counts.tolist()
    if np.outer(counts.sum(1), counts.sum(0))[~np.eye(4, dtype=bool)].any():  # else it divides by zero
        kappa = sklearn_metrics.cohen_kappa_score(wanted, near, labels=LEVELS, weights="quadratic")
        assert found.metrics["quadratic_kappa"] == pytest.approx(kappa)
    else:
        assert math.isnan(found.metrics["quadratic_kappa"])


def test_the_nearest_level_is_the_lower_of_two() -> None:
    assert nearest(np.asarray([-3, 0.5, 0.51, 1.75, 9]), LEVELS).tolist() == [0, 0, 1, 1, 3]


def test_a_row_without_a_number_has_no_part_in_loss_and_gradient(tmp_path: Path) -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 1, requires_grad=True)
    labels = torch.tensor([1.0, math.nan, -100.0, math.nan])
    loss = squared_error(logits, labels)
    torch.autograd.backward(loss)
    wanted = torch.nn.MSELoss(reduction="sum")(logits[[0, 2], 0], labels[[0, 2]])
    assert float(loss) == pytest.approx(float(wanted))
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[[1, 3]].tolist() == [[0], [0]]

    rows = numbered(3.5, -100, 0)
    collator = Collator.of(
        data_settings(tmp_path, rows, "regression"), tokenized(tmp_path, rows, "regression", BERT).train, BERT
    )
    assert collator.targets(collator(np.array([1, 0]), 0)["labels"]) == 2
    empty = collator.empty()["labels"]
    assert empty.isnan().all() and collator.targets(empty) == 0


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for each of the two tasks."""
    folder = tmp_path_factory.mktemp("stars")
    file = written(folder / "stars.jsonl", 240, stars)
    for task in TASKS:
        run(settings_of(bert, file, folder / task, task=task), resume=False)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_numbers_are_learned_told_and_drawn(trained: Path, task: str) -> None:
    info = json.loads((trained / task / "training_info.json").read_text())
    final = info["final"]
    assert final["pearson"] > 0.9 and final["mse"] == pytest.approx(final["loss"], rel=1e-5)
    assert info["best"]["metric"] == ("mse" if task == "regression" else "quadratic_kappa")
    assert len(info["scatter"]["true"]) == info["scatter"]["rows"] == 48
    assert (info["confusion_matrix"] is None) == (task == "regression")
    page = (trained / task / "report.html").read_text()
    assert "Predicted over true numbers" in page and "mean squared error" in page
    again = evaluated(trained / task)
    assert {name: again[name] for name in final} == pytest.approx(final, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_predict_evaluate_and_the_pipeline_agree(trained: Path, tmp_path: Path, task: str) -> None:
    file = written(tmp_path / "new.jsonl", 12, stars, seed=5)
    made, rows = predicted(trained / task, file, tmp_path / "said.jsonl"), rows_of(file)
    final = str(trained / task / "final")
    config = AutoModelForSequenceClassification.from_pretrained(final).config
    assert config.problem_type == "regression" and config.num_labels == 1
    read: Any = pipeline("text-classification", model=final, tokenizer=final)
    for row in made:
        assert read(row["text"])[0]["score"] == pytest.approx(row["value"], abs=1e-4)
        assert ("label" in row) == (task == "ordinal-regression")
        assert "label" not in row or abs(float(row["label"]) - row["value"]) <= 0.5 or row["label"] in ("0", "4")
    wrong = [(row["value"] - wanted["label"]) ** 2 for row, wanted in zip(made, rows, strict=True)]
    assert evaluated(trained / task, file)["mse"] == pytest.approx(sum(wrong) / 12, rel=1e-4)
