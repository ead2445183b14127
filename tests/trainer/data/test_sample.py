"""The sample: rows for a first run, made of what every Python carries."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.data.sample import PACKAGES, write_sample
from distrain_trainer.data.sources import locate, read
from distrain_trainer.settings.model import Settings


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "deep" / "sample.jsonl"
    write_sample(path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_has_text_label_and_split(sample: Path) -> None:
    rows = rows_of(sample)
    assert len(rows) > 2000
    for row in rows:
        assert list(row) == ["text", "label", "split"]
        assert row["text"].strip()
        assert row["label"] in PACKAGES
        assert row["split"] in ("train", "evaluation")


def test_every_label_is_in_both_splits(sample: Path) -> None:
    counts = Counter((row["label"], row["split"]) for row in rows_of(sample))
    assert min(counts[package, "train"] for package in PACKAGES) > 50
    assert min(counts[package, "evaluation"] for package in PACKAGES) > 5
    evaluated = sum(count for (_, split), count in counts.items() if split == "evaluation")
    assert 0.12 < evaluated / counts.total() < 0.18


def test_no_text_is_there_twice(sample: Path) -> None:
    texts = [row["text"] for row in rows_of(sample)]
    assert len(set(texts)) == len(texts)


def test_docstrings_lose_their_indentation(sample: Path) -> None:
    import asyncio
    import inspect

    assert inspect.getdoc(asyncio.Queue) in {row["text"] for row in rows_of(sample) if row["label"] == "asyncio"}


def test_writing_it_again_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    assert write_sample(tmp_path / "again.jsonl") == len(rows_of(sample))
    assert (tmp_path / "again.jsonl").read_bytes() == sample.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.jsonl"]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "mine"}\n')
    assert write_sample(file) == 1
    assert file.read_text() == '{"text": "mine"}\n'


@pytest.mark.parametrize("data", [{}, {"name": "sample"}])
def test_the_sample_is_what_a_run_without_data_takes(data: Any, tmp_path: Path) -> None:
    settings = Settings.model_validate({"data": {"cache": str(tmp_path)} | data})
    origin = locate(settings.data)
    splits = read(settings, origin, tmp_path / "work", print)
    assert origin.description.startswith("sample (")
    assert origin.fingerprint == locate(settings.data).fingerprint
    assert splits.evaluation is not None and len(splits.train) > 4 * len(splits.evaluation)
    assert splits.train.rows.column_names == ["text", "label", "split"]
