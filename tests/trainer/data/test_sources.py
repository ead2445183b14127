"""Which rows are trained on and which are evaluated on."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from calls import calls_of
from opening import ROWS, jsonl, listed, located, opened, refusal


def test_nothing_but_the_content_of_files_makes_the_fingerprint(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    origin = located(files=[str(file)])
    assert origin.description == f"a.jsonl, {file.stat().st_size} bytes"
    os.utime(file, (1, 1))
    assert located(files=[str(file)]).fingerprint == origin.fingerprint
    assert located(files=[str(file.rename(tmp_path / "moved.jsonl"))]).fingerprint == origin.fingerprint
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(moved.read_bytes().replace(b"row 7", b"row 8"))
    changed = located(files=[str(moved)]).fingerprint
    assert changed != origin.fingerprint
    other = str(jsonl(tmp_path / "b.jsonl"))
    evaluated = located(files=[str(moved)], evaluation_files=[other]).fingerprint
    assert evaluated not in (changed, origin.fingerprint)


def test_changed_content_is_seen_at_once(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS[:2])
    assert len(opened(tmp_path, files=[str(file)], evaluation_fraction=0).train) == 2
    stat = file.stat()
    jsonl(file, ROWS[2:4])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert listed(opened(tmp_path, files=[str(file)], evaluation_fraction=0).train) == ROWS[2:4]


def test_a_split_column_divides_the_rows(tmp_path: Path) -> None:
    rows = [row | {"part": ["train", "test", "extra"][i % 3]} for i, row in enumerate(ROWS)]
    files = [str(jsonl(tmp_path / "a.jsonl", rows))]
    splits = opened(tmp_path, files=files, split_column="part")
    assert splits.train.values("text") == [row["text"] for row in rows[::3]]
    assert splits.evaluation.values("text") == [row["text"] for row in rows[1::3]]
    sentence = refusal(tmp_path, files=files, split_column="part", evaluation_split="dev")
    assert "'dev' is not a split of the data; the splits are 'train', 'test', 'extra'" in sentence
    sentence = refusal(tmp_path, files=files, split_column="fold")
    assert "'fold' is not a column of the data; the columns are 'text', 'label', 'part'" in sentence


def test_named_splits_are_taken_in_order_of_preference(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_list(ROWS[: i + 1]) for i, name in enumerate(["train", "dev", "test"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    files = [str(tmp_path / "d")]
    splits = opened(tmp_path, files=files)
    assert (len(splits.train), len(splits.evaluation)) == (1, 3)
    assert len(opened(tmp_path, files=files, train_split="test", evaluation_split="train").train) == 3
    assert "data.train_split 'training' is not a split" in refusal(tmp_path, files=files, train_split="training")
    datasets.Dataset.from_list(ROWS).select([]).save_to_disk(tmp_path / "none")
    assert "has a split without rows" in refusal(tmp_path, files=[str(tmp_path / "none")])
    assert "has splits already" in refusal(tmp_path, files=files, split_column="label")


def test_evaluation_files_are_evaluated_on(tmp_path: Path) -> None:
    train, evaluation = jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path / "b.jsonl", ROWS[:3])
    splits = opened(tmp_path, files=[str(train)], evaluation_files=[str(evaluation)])
    assert (len(splits.train), len(splits.evaluation)) == (20, 3)


def test_files_that_are_named_as_splits_are_splits(tmp_path: Path) -> None:
    said: list[str] = []
    parts = {"train": ROWS, "validation": ROWS[:3], "test": ROWS[:7]}
    for name, rows in parts.items():
        jsonl(tmp_path / "flat" / f"{name}.jsonl", rows)
    files = [f"{tmp_path}/flat/*.jsonl"]
    splits = opened(tmp_path, said=said, files=files)
    assert (len(splits.train), len(splits.evaluation)) == (20, 3)
    assert "test.jsonl left alone (data.split_by_name: false trains on all)" in said[0]
    assert len(opened(tmp_path, files=files, split_by_name=False, evaluation_fraction=0).train) == 30
    assert "name the files in it (test.jsonl, train.jsonl, validation.jsonl), such as" in refusal(
        tmp_path, files=[f"{tmp_path}/flat"]
    )


def test_what_is_trained_on_is_not_evaluated_on_and_a_text_is_not_its_label(tmp_path: Path) -> None:
    file = str(jsonl(tmp_path / "a.jsonl"))
    sentence = refusal(tmp_path, files=[file], evaluation_files=[f"{tmp_path}/../{tmp_path.name}/a.jsonl"])
    assert f"{file} is named by data.files and by data.evaluation_files" in sentence
    for columns in ({"text_column": "label"}, {"label_column": "text"}):
        sentence = refusal(tmp_path, "sequence-classification", files=[file], **columns)
        assert "is both text and label; set data.text_column or data.label_column to another of" in sentence


def test_held_out_rows_are_those_of_train_test_split(tmp_path: Path) -> None:
    files = [str(jsonl(tmp_path / "a.jsonl"))]
    splits = opened(tmp_path, files=files, evaluation_fraction=0.25)
    expected = datasets.Dataset.from_list(ROWS).train_test_split(0.25, seed=42)
    assert splits.evaluation.values("text") == sorted(expected["test"]["text"][:], key=lambda text: int(text[4:]))
    assert sorted(splits.train.values("text") + splits.evaluation.values("text")) == sorted(row["text"] for row in ROWS)


def test_held_out_rows_are_stratified_where_that_is_possible(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"text": str(i), "label": int(i % 5 == 0)} for i in range(50)]
    files = [str(jsonl(tmp_path / "a.jsonl", rows))]
    splits = opened(tmp_path, "sequence-classification", said, files=files, evaluation_fraction=0.2)
    assert np.bincount(splits.evaluation.values("label")).tolist() == [8, 2]
    assert not said
    files = [str(jsonl(tmp_path / "b.jsonl", [*rows, {"text": "x", "label": 2}]))]
    splits = opened(tmp_path, "sequence-classification", said, files=files, evaluation_fraction=0.2)
    assert splits.evaluation is not None and len(splits.evaluation) == 10
    assert said == [
        "evaluation rows are drawn without stratification: label '2' has one row only",
        "1 row of those drawn for evaluation are trained on instead: no other row has their label",
    ]


def test_stratified_rows_are_those_of_train_test_split(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"text": str(i), "label": "ab"[i % 5 == 0]} for i in range(50)])
    rows = rows.class_encode_column("label")
    rows.save_to_disk(tmp_path / "rows")
    expected = rows.train_test_split(0.3, seed=42, stratify_by_column="label")
    splits = opened(tmp_path, "sequence-classification", files=[str(tmp_path / "rows")], evaluation_fraction=0.3)
    assert splits.evaluation is not None
    assert splits.evaluation.values("text") == sorted(expected["test"]["text"][:], key=int)
    assert splits.train.values("text") == sorted(expected["train"]["text"][:], key=int)


@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification"])
def test_holding_out_rows_does_not_look_at_each_of_them(tmp_path: Path, task: str) -> None:
    calls = []
    for rows in (1_000, 8_000):
        made = datasets.Dataset.from_dict({"text": ["a"] * rows, "label": [i % 2 for i in range(rows)]})
        made.class_encode_column("label").save_to_disk(tmp_path / str(rows))
        files = [str(tmp_path / str(rows))]
        calls.append(calls_of(partial(opened, tmp_path, task, files=files)))
    assert calls[1] < 2 * calls[0]


def test_an_unlabelled_row_is_counted_from_the_file_and_not_from_the_split(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"text": "x", "label": None}, *ROWS]
    sentence = refusal(tmp_path, "sequence-classification", files=[str(jsonl(tmp_path / "a.jsonl", rows))])
    assert "1 of 41 training rows have no label in column 'label'" in sentence
    assert f"the first is {tmp_path}/a.jsonl, line 21; " in sentence


def test_minus_one_is_a_label_unless_it_is_said_to_be_none(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"text": f"row {i}", "label": i % 3 - 1} for i in range(30)]
    files = [str(jsonl(tmp_path / "a.jsonl", rows))]
    train = opened(tmp_path, "sequence-classification", files=files, evaluation_fraction=0).train
    assert set(train.values("label")) == {-1, 0, 1}
    made = opened(tmp_path, "sequence-classification", said, files=files, evaluation_fraction=0, unlabelled=-1)
    assert set(made.train.values("label")) == {0, 1}
    assert said == ["10 of 30 training rows have no label and are left out"]


def test_one_row_cannot_be_divided(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, files=[str(jsonl(tmp_path / "a.jsonl", ROWS[:1]))])
    assert "1 row cannot be divided by data.evaluation_fraction = 0.1" in sentence
    assert "data.text_unit" not in sentence


def test_a_text_file_of_one_paragraph_is_told_what_makes_its_lines_rows(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one line\nanother line\n")
    sentence = refusal(tmp_path, "causal-lm", files=[str(tmp_path / "notes.txt")])
    assert sentence.endswith(
        "name data.evaluation_files, or set data.text_unit: a row of a text file is a paragraph unless it is line"
    )


def test_a_path_is_not_taken_for_a_name_on_the_hub(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    assert "is a path here, but names a data set on the Hub; use data.files" in refusal(tmp_path, name=str(file))
