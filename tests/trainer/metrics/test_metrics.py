import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from distrain_trainer.metrics import metrics

CLASSES = 5
labels = st.integers(0, CLASSES - 1)
rows = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)


@given(rows)
def test_classification_metrics_are_those_of_scikit_learn(pairs: Any) -> None:
    predictions, references = zip(*pairs, strict=True)
    values = metrics.classification_metrics(predictions, references, CLASSES)
    assert values["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(references, predictions))
    for average in metrics.AVERAGES:
        expected = sklearn_metrics.precision_recall_fscore_support(
            references, predictions, average=average, zero_division=0
        )
        got = [values[f"{score}_{average}"] for score in ("precision", "recall", "f1")]
        assert got == pytest.approx(expected[:3])


@given(rows)
def test_single_scores_need_no_number_of_classes(pairs: Any) -> None:
    predictions, references = zip(*pairs, strict=True)
    values = metrics.classification_metrics(predictions, references, CLASSES)
    for score in (metrics.precision, metrics.recall, metrics.f1):
        for average in metrics.AVERAGES:
            expected = values[f"{score.__name__}_{average}"]
            assert score(predictions, references, average) == pytest.approx(expected)


@given(rows)
def test_the_confusion_matrix_is_that_of_scikit_learn(pairs: Any) -> None:
    predictions, references = zip(*pairs, strict=True)
    expected = sklearn_metrics.confusion_matrix(references, predictions, labels=range(CLASSES))
    assert np.array_equal(metrics.confusion_matrix(predictions, references, CLASSES), expected)


@given(rows)
def test_scores_of_a_class_are_those_of_scikit_learn(pairs: Any) -> None:
    predictions, references = zip(*pairs, strict=True)
    scores = metrics.class_scores(metrics.confusion_matrix(predictions, references, CLASSES))
    expected = sklearn_metrics.precision_recall_fscore_support(
        references, predictions, labels=range(CLASSES), zero_division=0
    )
    assert np.allclose([scores["precision"], scores["recall"], scores["f1"]], expected[:3])


def test_metrics_are_python_floats_under_the_promised_names() -> None:
    values = metrics.classification_metrics(np.array([0, 1]), np.array([0, 0]), 2)
    assert ("loss", *values) == metrics.CLASSIFICATION_METRICS
    assert {type(value) for value in values.values()} == {float}
    assert tuple(metrics.language_metrics(1.0, 2, 1)) == metrics.LANGUAGE_METRICS


def test_language_metrics_follow_from_sums() -> None:
    values = metrics.language_metrics(loss_sum=200 * math.log(2), tokens=100, correct=40)
    assert values == pytest.approx(
        {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_token": 2.0, "token_accuracy": 0.4}
    )


def test_a_hopeless_loss_has_infinite_perplexity() -> None:
    assert metrics.perplexity(1e6, 1) == math.inf


def test_nothing_evaluated_has_no_value() -> None:
    assert math.isnan(metrics.accuracy([], []))
    assert all(map(math.isnan, metrics.language_metrics(0.0, 0, 0).values()))
    assert metrics.f1([], []) == 0.0


def test_only_losses_get_better_downwards() -> None:
    downwards = {name for name in metrics.LANGUAGE_METRICS if not metrics.greater_is_better(name)}
    assert downwards == {"loss", "perplexity", "bits_per_token"}
    assert metrics.greater_is_better("f1_macro")


LABELS = {"predictions": [0, 1, 1, 2, 2], "references": [0, 1, 2, 2, 1]}
WITH_EVALUATE = """
import json, sys, evaluate
from distrain_trainer.metrics.metrics import AVERAGES, metric_path

labels = json.loads(sys.argv[1])
load = lambda name: evaluate.load(str(metric_path(name)))
values = {name: load(name).compute(**labels)[name] for name in ("accuracy", "confusion_matrix")}
for name in ("precision", "recall", "f1"):
    for average in AVERAGES:
        values[f"{name}_{average}"] = load(name).compute(**labels, average=average)[name]
for name in ("perplexity", "bits_per_token"):
    metric = load(name)
    metric.add_batch(losses=[0.5, 2.5])
    metric.add_batch(losses=[1.5])
    values |= metric.compute()
print(json.dumps(values))
"""


def test_evaluate_load_gives_the_same_numbers_without_a_network(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", WITH_EVALUATE, json.dumps(LABELS)]
    values = json.loads(subprocess.check_output(command, env=environment))
    assert values.pop("confusion_matrix") == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert values.pop("perplexity") == pytest.approx(math.exp(1.5))
    assert values.pop("bits_per_token") == pytest.approx(1.5 / math.log(2))
    assert values == metrics.classification_metrics(**LABELS, classes=3)
