"""Local files as a data set on the Hub: a run on it reads the same rows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

import hub
from distrain_trainer.data.publish import push_data, read_splits
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.settings.sections import Hub
from opening import jsonl, listed, opened

DATA = "datasets/me/texts"
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
OTHER_CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "g", "arguments": {"b": "x"}}}],
}
PLAIN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.fixture(autouse=True)
def known(service: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", service.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def push(*files: Path, said: list[str] | None = None, **asked: Any) -> dict[str, int]:
    told = said if said is not None else []
    return push_data([str(file) for file in files], Hub(repo="me/texts", **asked), "default", told.append)[1]


def test_files_become_splits_by_their_names(service: hub.Hub, tmp_path: Path) -> None:
    train, test = jsonl(tmp_path / "train.jsonl"), jsonl(tmp_path / "test.jsonl", [{"text": "t", "label": "a"}])
    assert push(train, test) == {"train": 20, "test": 1}
    there = service.repositories[DATA]
    assert there.private and there.messages == ["21 rows, by distrain"]
    assert {path for path in there.files if path.endswith(".parquet")} == {
        "data/train-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    }
    assert push(train, test) and len(there.messages) == 1, "a second push changes nothing"


def test_a_push_goes_on_after_a_fault(service: hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    service.faults.extend([hub.Fault("repos/create", 500), hub.Fault("commit/main", "lost"), hub.Fault("PUT", "reset")])
    said: list[str] = []
    assert push(jsonl(tmp_path / "a.jsonl"), said=said) == {"train": 20}
    assert len(service.repositories[DATA].messages) == 1 and len(said) == 1


def test_a_public_data_set_is_not_written_unasked(service: hub.Hub, tmp_path: Path) -> None:
    service.repositories[DATA] = hub.Repository()
    with pytest.raises(SettingsError, match="me/texts is public"):
        push(jsonl(tmp_path / "a.jsonl"))
    assert push(jsonl(tmp_path / "a.jsonl"), private=False)


@pytest.mark.parametrize(
    ("name", "content", "column", "values"),
    [
        ("a.csv", "text,label,n\nx,NA,1\ny,None,2\n", "label", ["NA", "None"]),
        ("a.csv", "text,label,n\nx,NA,1\ny,None,2\n", "n", [1, 2]),
        ("a.tsv", "text\tscore\nx\t0.5\ny\t\n", "score", [0.5, None]),
        ("a.txt", "one\ntwo\n\nthree\n", "text", ["one\ntwo", "three"]),
    ],
)
def test_values_have_the_types_that_training_gives_them(
    tmp_path: Path, name: str, content: str, column: str, values: list[Any]
) -> None:
    (tmp_path / name).write_text(content)
    splits = read_splits([str(tmp_path / name)], tmp_path / "scratch", print)
    assert splits["train"][column][:] == values


def test_tool_calls_keep_their_own_keys(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "chats.jsonl", [{"messages": [CALL]}, {"messages": [OTHER_CALL]}])
    said: list[str] = []
    splits = read_splits([str(file)], tmp_path / "scratch", said.append)
    assert [json.loads(text) for text in splits["train"]["messages"][:]] == [[CALL], [OTHER_CALL]]
    assert said == ["column 'messages' is stored as JSON text: a table would give its objects other keys or types"]
    plain = read_splits([str(jsonl(tmp_path / "b.jsonl", [{"messages": PLAIN}]))], tmp_path / "again", said.append)
    assert plain["train"]["messages"][:] == [PLAIN] and len(said) == 1


def test_splits_of_different_columns_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": 1}])
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(DataError, match="the splits have different columns: test has"):
        read_splits([str(tmp_path / "*.jsonl")], tmp_path / "scratch", print)


def test_a_saved_folder_keeps_its_splits(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    datasets.DatasetDict({"train": rows, "other": rows}).save_to_disk(str(tmp_path / "saved"))
    splits = read_splits([str(tmp_path / "saved")], tmp_path / "scratch", print)
    assert {name: len(part) for name, part in splits.items()} == {"train": 2, "other": 2}


READER = """
import json, sys
from pathlib import Path
from distrain_trainer.data.sources import locate, read
from distrain_trainer.settings.model import Settings
settings = Settings.model_validate({"task": sys.argv[1], "data": {"name": "me/texts"}})
splits = read(settings, locate(settings.data), Path(sys.argv[2]), lambda text: None)
columns = {name: splits.train.values(name) for name in splits.train.rows.column_names}
print(json.dumps([dict(zip(columns, row)) for row in zip(*columns.values())]))
"""


def test_a_run_on_the_data_set_reads_the_rows_of_the_files(service: hub.Hub, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    here = listed(opened(tmp_path, "sequence-classification", files=[str(file)]).train)
    push(file)
    environment = service.environment(tmp_path / "home", hub.TOKEN)
    command = [sys.executable, "-c", READER, "sequence-classification", str(tmp_path / "rows")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here
