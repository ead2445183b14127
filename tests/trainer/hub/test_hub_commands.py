"""`distrain push` and `push-dataset` as people type them."""

import json
import re
from pathlib import Path

import datasets
import pytest

import hub
from distrain_k8s.cli import main
from distrain_trainer import bars
from opening import jsonl


def distrain(*arguments: object) -> int:
    """The exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_a_run_is_pushed_by_its_folder(service: hub.Hub, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distrain("push", finished, "me/tiny") == 0
    there = service.repositories["models/me/tiny"]
    printed = capsys.readouterr()
    told = {"repo": "me/tiny", "commit": there.commit, "url": f"{service.url}/me/tiny"}
    assert (
        json.loads(printed.out) == told and f"model: {finished / 'final'} (--checkpoint takes another: " in printed.err
    )
    assert there.private and "report.html" in there.files
    assert distrain("push", finished, "me/other", "--best", "--public") == 0
    assert not service.repositories["models/me/other"].private
    assert distrain("push", finished, "me/third", "--checkpoint", 8) == 0
    assert there.files["model.safetensors"] == service.repositories["models/me/third"].files["model.safetensors"]


def test_files_are_pushed_as_a_data_set(
    service: hub.Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", service.url)
    train, test = jsonl(tmp_path / "train.jsonl"), jsonl(tmp_path / "test.jsonl")
    assert distrain("push-dataset", train, test, "me/texts", "--config", "plain") == 0
    there = service.repositories["datasets/me/texts"]
    assert json.loads(capsys.readouterr().out) == {
        "repo": "me/texts",
        "commit": there.commit,
        "url": f"{service.url}/datasets/me/texts",
        "rows": {"train": 20, "test": 20},
    }
    assert there.private and "plain/train-00000-of-00001.parquet" in there.files


REFUSED = [
    (("push", "out", "tiny"), "REPO is tiny, but it should be owner/name"),
    (("push", "out", "me/tiny", "--best", "--checkpoint", "3"), "--best and --checkpoint 3 contradict each other"),
    (("push", "nowhere", "me/tiny"), "nowhere does not exist; give a run's folder"),
    (("push-dataset", "nothing.csv", "me/texts"), "FILES: nothing.csv is not there"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED, ids=[case[1][:12] for case in REFUSED])
def test_a_mistake_is_one_sentence(
    service: hub.Hub, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert distrain(*arguments) in (64, 65)
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1 and not service.requests


def test_a_push_that_takes_long_is_told_of_without_a_terminal(
    service: hub.Hub, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "FIRST", 1e-3)  # a push takes more than that
    assert distrain("push", finished, "me/slow") == 0
    assert re.search(r"^pushing [\d.]+k?M?B to me/slow: 0:00 so far$", capsys.readouterr().err, re.MULTILINE)
