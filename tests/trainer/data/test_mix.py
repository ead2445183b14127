"""Several data sets with weights are one, the same for every process and every run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from distrain_trainer.data.mix import chosen, prepare_all
from distrain_trainer.data.tokens import Tokenized, prepare
from distrain_trainer.errors import DataError
from distrain_trainer.settings.model import Settings
from tokenizing import BERT, GPT2, TEXTS, rows_of


def written(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def mixed(
    tmp_path: Path, mix: dict[str, float], task: str = "causal-lm", tokenizer: Any = GPT2, **data: Any
) -> Tokenized:
    data = {"mix": mix, "cache": str(tmp_path / "cache"), "evaluation_fraction": 0} | data
    settings = Settings.model_validate({"task": task, "data": data})
    return prepare_all(settings, tokenizer, 16, lambda text: None)


def alone(tmp_path: Path, file: str, task: str = "causal-lm", tokenizer: Any = GPT2, **data: Any) -> Tokenized:
    data = {"files": [file], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0} | data
    return prepare(Settings.model_validate({"task": task, "data": data}), tokenizer, 16, lambda text: None)


def test_rows_stand_as_often_as_their_weight_says(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.jsonl", TEXTS[:2]), written(tmp_path / "b.jsonl", TEXTS[2:])
    made = mixed(tmp_path, {first: 2, second: 1})
    a, b = (rows_of(alone(tmp_path, file).train) for file in (first, second))
    assert rows_of(made.train) == a + a + b
    assert made.counts["train_rows"] == len(made.train) == 6
    again = mixed(tmp_path, {first: 2, second: 1})
    assert again.fingerprint == made.fingerprint != mixed(tmp_path, {first: 1, second: 1}).fingerprint
    assert "2 x a.jsonl" in made.origin.description


@pytest.mark.parametrize(("weight", "count"), [(0.5, 50), (1, 100), (2.25, 225), (0.001, 0)])
def test_a_part_of_the_rows_is_drawn_by_the_seed(weight: float, count: int) -> None:
    rows = chosen(100, weight, 1, 0)
    assert len(rows) == count and np.array_equal(rows, chosen(100, weight, 1, 0))
    assert set(np.unique(rows, return_counts=True)[1]) <= {int(weight), int(weight) + 1}
    if weight == 0.5:
        assert not np.array_equal(rows, chosen(100, weight, 2, 0))
        assert not np.array_equal(rows, chosen(100, weight, 1, 1))


def test_each_data_set_holds_out_its_own_rows(tmp_path: Path) -> None:
    files = [
        written(tmp_path / f"{n}.jsonl", [{"text": f"{row['text']} {n} {i}"} for i in range(5) for row in TEXTS])
        for n in "ab"
    ]
    made = mixed(tmp_path, dict.fromkeys(files, 1.0), evaluation_fraction=0.25)
    parts = [alone(tmp_path, file, evaluation_fraction=0.25) for file in files]
    assert made.evaluation is not None
    assert rows_of(made.evaluation) == [row for part in parts for row in rows_of(part.evaluation)]


def test_labels_are_mixed_where_they_are_the_same_and_refused_elsewhere(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.jsonl", TEXTS), written(tmp_path / "b.jsonl", TEXTS[:2])
    made = mixed(tmp_path, {first: 1, second: 3}, "sequence-classification", BERT)
    labels = alone(tmp_path, first, "sequence-classification", BERT).train.labels
    assert labels is not None and made.train.labels is not None
    assert made.label_names == ("cat", "dog") and made.train.labels.tolist() == [*labels, *[*labels[:2]] * 3]
    other = written(tmp_path / "c.jsonl", [row | {"label": f"not {row['label']}"} for row in TEXTS])
    with pytest.raises(DataError, match="other labels"):
        mixed(tmp_path, {first: 1, other: 1}, "sequence-classification", BERT)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"mix": {"a.jsonl": 1}, "name": "b/c"}, "cannot be set beside it"),
        ({"mix": ["a.jsonl"]}, "is not a data set and a weight above 0"),
        ({"mix": ["a.jsonl=1", "a.jsonl=2"]}, "stands in it twice"),
        ({"mix": {"a.jsonl": -1}}, "is not a data set and a weight above 0"),
    ],
)
def test_a_mix_that_cannot_be_meant_is_refused(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Settings.model_validate({"data": data})
