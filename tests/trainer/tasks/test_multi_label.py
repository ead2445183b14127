"""Rows with any number of labels."""

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sklearn_metrics
from transformers import AutoModelForSequenceClassification, pipeline

from distrain_trainer.data.loader import Collator
from distrain_trainer.errors import DataError
from distrain_trainer.metrics.metrics import AVERAGES
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.losses import binary_cross_entropy
from distrain_trainer.tasks.multi_label import balanced, score, weigh
from distrain_trainer.training.run import run
from labelled import evaluated, predicted, rows_of, settings_of, topics, written
from tokenizing import BERT, refusal, tokenized
from tokenizing import settings_of as data_settings

TASK = "multi-label-classification"
NAMES = ("a", "b", "c", "d")


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": "the cat", "labels": label} for label in labels]


@pytest.mark.parametrize(
    ("labels", "names", "encoded"),
    [
        ((["b", "a"], [], ["b", "b"]), ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        (([10, 2], [2], []), ("2", "10"), [[1, 1], [1, 0], [0, 0]]),
        (([0, 1, 0], [1, 0, 1]), ("0", "1", "2"), [[0, 1, 0], [1, 0, 1]]),
        (([1.0, 0.0], [0.0, 1.0]), ("0", "1"), [[1, 0], [0, 1]]),
        (([True, False], [False, False]), ("0", "1"), [[1, 0], [0, 0]]),
    ],
)
def test_lists_of_labels_or_of_0_and_1_become_one_number_a_label(
    tmp_path: Path, labels: Any, names: Any, encoded: Any
) -> None:
    made = tokenized(tmp_path, labelled(*labels), TASK, BERT)
    assert made.label_names == names
    assert made.train.labels.tolist() == encoded and made.train.labels.dtype == np.int8


def test_class_labels_of_a_list_keep_their_own_order(tmp_path: Path) -> None:
    """As go_emotions has them on the Hub."""
    label = datasets.List(datasets.ClassLabel(names=["z", "x", "y"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": label})
    rows = {"text": ["the cat"] * 3, "labels": [[0, 2], [1], [2, 2]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    made = tokenized(tmp_path, [], TASK, BERT, files=[str(tmp_path / "saved")])
    assert made.label_names == ("z", "x", "y")
    assert made.train.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_columns_of_0_and_1_are_labels(tmp_path: Path) -> None:
    """As the toxic comments have them, in CSV."""
    (tmp_path / "a.csv").write_text("text,toxic,insult\nthe cat,1,0\nthe dog,0,0\na fox,1,1\n")
    named: dict[str, Any] = {"files": [str(tmp_path / "a.csv")], "label_columns": ["insult", "toxic"]}
    made = tokenized(tmp_path, [], TASK, BERT, **named)
    assert made.label_names == ("insult", "toxic") and made.train.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    (tmp_path / "a.csv").write_text("text,toxic,insult\nthe cat,1,0\nthe dog,2,0\n")
    sentence = refusal(DataError, tmp_path, [], TASK, BERT, **named)
    assert "a.csv, line 3 has 2 for label 'toxic', but it is 0 or 1; correct the column" in sentence
    with pytest.raises(ValueError, match=r"data\.label_column and data\.label_columns are both set"):
        Settings.model_validate({"task": TASK, "data": {"label_column": "a", "label_columns": ["b"]}})
    with pytest.raises(ValueError, match=r"data\.label_columns is for multi-label-classification but task is sequence"):
        Settings.model_validate({"data": {"label_columns": ["b"]}})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ((["a"], None), "1 of 2 training rows have no label in column 'labels' (it is null), the first is"),
        ((["a"], "b"), ".jsonl, line 2 has 'b' in column 'labels', but labels of multi-label-classification are lists"),
        (
            (["a"], ["b", 1]),
            ".jsonl, line 2 has ['b', 1] in column 'labels', but labels are all strings or all integers",
        ),
        ((["a"], ["a"]), "every training row has the same labels in column 'labels' ('a'); there is nothing to learn"),
        (([], []), "every training row has the same labels in column 'labels' (none)"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(tmp_path: Path, labels: Any, told: str) -> None:
    assert told in refusal(DataError, tmp_path, labelled(*labels), TASK, BERT)


def test_a_label_is_trained_on_where_one_row_alone_has_it(tmp_path: Path) -> None:
    rows = labelled(*([["a"], ["b"], ["a", "b"], []] * 10), ["rare"])
    for fraction in (0.3, 0.5, 0.9):
        made = tokenized(tmp_path, rows, TASK, BERT, evaluation_fraction=fraction)
        assert made.label_names == ("a", "b", "rare") and made.train.labels.sum(0).min() > 0


def test_a_label_of_evaluation_alone_is_said_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "cat", "labels": labels, "part": part} for labels, part in (
        (["a"], "train"), (["b"], "train"), (["b", "x"], "test"))]  # fmt: skip
    made = tokenized(tmp_path, rows, TASK, BERT, split_column="part")
    assert made.label_names == ("a", "b", "x")
    assert made.evaluation.labels.tolist() == [[0, 1, 1]]


flags = arrays.arrays(np.int8, st.tuples(st.integers(1, 20), st.just(4)), elements=st.integers(0, 1))


@given(flags, st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_scikit_learn(true: np.ndarray, seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, 2, true.shape)
    found = score(predicted.tolist(), true.tolist(), NAMES)
    wanted = {"accuracy": sklearn_metrics.accuracy_score(true, predicted)}
    for average in AVERAGES:
        scored = sklearn_metrics.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        names = (f"{name}_{average}" for name in ("precision", "recall", "f1"))
        wanted |= dict(zip(names, scored, strict=False))
    assert found.metrics == pytest.approx(wanted)
    each = sklearn_metrics.precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    rows = found.details["label_scores"]
    assert [row["label"] for row in rows] == list(NAMES)
    for name, values in zip(("precision", "recall", "f1", "count"), each, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values)


def test_parts_of_a_step_add_up_to_what_torch_gives_for_all_of_it() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(6, 4), torch.randint(0, 2, (6, 4))
    wanted = torch.nn.BCEWithLogitsLoss()(logits, labels.float())
    parts = [slice(0, 2), slice(2, 6)]
    assert sum(float(binary_cross_entropy(logits[p], labels[p])) for p in parts) / 24 == pytest.approx(float(wanted))
    empty = torch.full((1, 4), -100)
    assert float(binary_cross_entropy(logits[:1], empty)) == 0
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    weighted = torch.nn.BCEWithLogitsLoss(pos_weight=weights, reduction="sum")(logits, labels.float())
    assert float(binary_cross_entropy(logits, labels, weights)) == pytest.approx(float(weighted))
    assert float(weigh(torch.cat([labels, empty]), weights)) == pytest.approx(
        float((labels * weights + (1 - labels)).sum())
    )
    smooth = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, labels * 0.9 + 0.05)
    assert float(binary_cross_entropy(logits, labels, smoothing=0.1)) == pytest.approx(float(smooth))


def test_balanced_weights_make_a_labels_rows_count_as_those_without_it() -> None:
    labels = np.asarray([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.int8)
    assert balanced(labels, 3).tolist() == [3.0, 1.0, 1 / 3]


def test_a_batch_has_a_number_for_each_label_and_an_empty_one_no_target(tmp_path: Path) -> None:
    rows = labelled(["b", "a"], [], ["b"])
    collator = Collator.of(data_settings(tmp_path, rows, TASK), tokenized(tmp_path, rows, TASK, BERT).train, BERT)
    labels = collator(np.array([2, 0]), 0)["labels"]
    assert labels.tolist() == [[0, 1], [1, 1]] and labels.dtype == torch.int64
    assert collator.targets(labels) == 4
    assert collator.targets(collator.empty()["labels"]) == 0


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on texts that may be about several topics."""
    folder = tmp_path_factory.mktemp("topics")
    file = written(folder / "topics.jsonl", 240, topics)
    slowly = {"schedule.epochs": 20, "batch.micro_batches": 1, "optimizer.learning_rate": 2e-3}
    run(settings_of(bert, file, folder / "out", task=TASK, **slowly), resume=False)
    return folder


def test_labels_are_learned_and_told(trained: Path) -> None:
    info = json.loads((trained / "out" / "training_info.json").read_text())
    assert info["final"]["f1_micro"] > 0.75 and info["best"]["metric"] == "f1_micro"
    assert [row["label"] for row in info["label_scores"]] == ["animals", "films", "numbers"]
    assert info["confusion_matrix"] is None
    page = (trained / "out" / "report.html").read_text()
    assert "animals" in page and "Labels" in page
    again = evaluated(trained / "out")
    assert {name: again[name] for name in info["final"]} == pytest.approx(info["final"], abs=1e-6)


def test_predict_evaluate_and_the_pipeline_agree(trained: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "new.jsonl", 12, topics, seed=5)
    made, rows = predicted(trained / "out", file, tmp_path / "said.jsonl"), rows_of(file)
    final = str(trained / "out" / "final")
    model = AutoModelForSequenceClassification.from_pretrained(final)
    assert model.config.problem_type == "multi_label_classification"
    classify: Any = pipeline("text-classification", model=final, tokenizer=final, top_k=None)
    for row in made:
        theirs = {one["label"]: one["score"] for one in classify(row["text"])[0]}
        assert theirs == pytest.approx(row["scores"], abs=1e-5)
        assert set(row["labels"]) == {name for name, value in theirs.items() if value > 0.5}
        assert [row["scores"][name] for name in row["labels"]] == sorted(
            (row["scores"][name] for name in row["labels"]), reverse=True
        )
    exact = sum(set(row["labels"]) == set(wanted["labels"]) for row, wanted in zip(made, rows, strict=True)) / 12
    found = evaluated(trained / "out", file)
    assert found["accuracy"] == pytest.approx(exact) and math.isfinite(found["loss"])
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": "cat", "labels": ["birds"]}) + "\n")
    with pytest.raises(DataError, match="has labels that the model does not know: 'birds'"):
        evaluated(trained / "out", tmp_path / "other.jsonl")
