"""Labels: which number each has, and which are none."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from distrain_trainer.errors import DataError
from tokenizing import BERT, refusal, texts, tokenized


@pytest.mark.parametrize(
    "labels, names, ids",
    [
        (["b", "a", "b", "c"], ("a", "b", "c"), [1, 0, 1, 2]),
        ([10, 9, 2, 9], ("2", "9", "10"), [2, 1, 0, 1]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([2.0, 1.0, 2.0, 1.0], ("1", "2"), [1, 0, 1, 0]),
    ],
)
def test_ids_of_labels_are_contiguous_in_the_order_of_their_names(
    tmp_path: Path, labels: Any, names: Any, ids: Any
) -> None:
    rows = [{"text": "the cat", "label": label} for label in labels]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert made.label_names == names
    assert made.train.labels.tolist() == ids
    assert made.train.labels.dtype == np.int32


def test_class_labels_keep_their_own_order(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "x", "y"])}
    )
    rows = {"text": ["the cat"] * 3, "label": [0, 2, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    files = {"files": [str(tmp_path / "saved")]}
    made = tokenized(tmp_path, [], "sequence-classification", BERT, **files)
    assert made.label_names == ("z", "x", "y")
    assert made.train.labels.tolist() == [0, 2, 0]


def test_labels_stay_with_their_texts_when_texts_are_dropped(tmp_path: Path) -> None:
    rows = [{"text": "", "label": "x"}, {"text": "cat", "label": "b"}, {"text": "dog", "label": "a"}]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert [made.label_names[i] for i in made.train.labels] == ["b", "a"]


@pytest.mark.parametrize(
    "labels, told",
    [
        (
            ["a", None, "b", None],
            "2 of 4 training rows have no label in column 'label' (it is null), the first is",
        ),
        (
            ["a", "  ", "b", "\t"],
            "2 of 4 training rows have no label in column 'label' (it is empty), the first is",
        ),
        (["a", "b", "a "], "line 3 has label 'a ' in column 'label' where other rows have 'a', which would be two"),
        (
            [-1, -1],
            "2 of 2 training rows have no label in column 'label' (it is -1), the first is",
        ),
        ([0.5, 1.0], "line 1 has label 0.5 in column 'label', but classes are strings"),
        (["a", "a"], "every training row has label 'a' in column 'label'; a classification needs two classes"),
        (["a", 1, "b"], ".jsonl, line 2 has 1 in column 'label' and "),
    ],
)
def test_labels_that_name_no_class_are_refused(tmp_path: Path, labels: Any, told: str) -> None:
    rows = [{"text": "the cat", "label": label} for label in labels]
    assert told in refusal(DataError, tmp_path, rows, "sequence-classification", BERT)


def test_labels_that_only_evaluation_has_are_named(tmp_path: Path) -> None:
    parts = {"a": "train", "b": "train", "x": "test", "y": "test"}
    rows = [{"text": "cat", "label": label, "part": part} for label, part in parts.items()]
    sentence = refusal(DataError, tmp_path, rows, "sequence-classification", BERT, split_column="part")
    assert "labels in the evaluation rows but not in the training rows: 'x', 'y'; " in sentence


def test_a_missing_label_column_lists_the_columns(tmp_path: Path) -> None:
    sentence = refusal(DataError, tmp_path, texts("the cat"), "sequence-classification", BERT)
    assert "no column label or labels; the columns are 'text': set data.label_column" in sentence
