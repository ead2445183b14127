"""Work that takes over two seconds shows how far it is: a bar on a terminal, lines without one."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from distrain_trainer import bars
from distrain_trainer.bars import Work, progress
from distrain_trainer.console import short
from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.run import run

PROGRAM = """
import sys, time
from distrain_trainer.bars import progress
with progress("tokenizing", 40, "texts") as advance:
    for _ in range(30):
        time.sleep(0.1)
        advance(1)
print("rows")
"""


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock that bars read, in its one element."""
    now = [0.0]
    monkeypatch.setattr(bars, "monotonic", lambda: now[0])
    yield now


def test_a_sentence_says_what_is_done_of_how_much_and_how_long_it_still_takes(seconds: list[float]) -> None:
    texts, size, unknown, alone = (
        Work("tokenizing", 100_000, "texts"),
        Work("verifying checkpoint-12", 3_000_000_000, "bytes"),
        Work("predicting", None, "rows"),
        Work("reading the model"),
    )
    seconds[0] = 5.0
    assert texts.sentence == "tokenizing: 0 of 100,000 texts, 0:05 so far"
    texts.advance(10_000)
    size.advance(1_500_000_000)
    unknown.advance(4096)
    assert texts.sentence == "tokenizing: 10,000 of 100,000 texts, 0:45 left"
    assert size.sentence == "verifying checkpoint-12: 1.5GB of 3GB, 0:05 left"
    assert unknown.sentence == "predicting: 4,096 rows, 0:05 so far"
    assert alone.sentence == "reading the model: 0:05 so far"


def test_lines_come_after_two_seconds_and_ever_more_rarely_until_one_a_minute(seconds: list[float]) -> None:
    work, said = Work("merging"), []
    for second in range(301):
        seconds[0] = float(second)
        if not work.pace.left:
            work.pace.take()
            said.append(second)
    assert said == [2, 6, 14, 30, 62, 122, 182, 242]


def test_what_is_done_within_two_seconds_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("packing", 3, "texts") as advance:
        advance(3)
    with progress("packing", shown=False) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_without_a_terminal_lines_go_to_stderr_and_stdout_keeps_its_data() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    (line,) = run.stderr.splitlines()
    assert re.fullmatch(r"tokenizing: (\d+) of 40 texts, 0:0\d left", line), line
    assert run.stdout == "rows\n"


def test_on_a_terminal_a_bar_is_drawn_and_goes_away_and_a_pipe_keeps_its_data() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=theirs, stdout=subprocess.PIPE, env=environment
    ) as run:
        os.close(theirs)
        drawn = b""
        with suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 4096):
                drawn += piece
        assert run.stdout is not None
        assert run.stdout.read() == b"rows\n"
    os.close(ours)
    text = drawn.decode()
    assert "━" in text
    assert re.search(r"tokenizing: \d+ of 40 texts", text)
    assert text.endswith("\x1b[2K") or "\x1b[2K" in text.rsplit("━", 1)[1]  # the bar's line is erased


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """All work that begins from now on."""
    found: list[Work] = []

    class Seen(Work):
        def __init__(self, what: str, total: int | None = None, unit: str = "") -> None:
            super().__init__(what, total, unit)
            found.append(self)

    monkeypatch.setattr(bars, "Work", Seen)
    return found


def amounts(works: list[Work]) -> dict[str, str]:
    """What each of some work has counted at its end; the list is empty then."""
    found = {work.what: work.amount for work in works}
    works.clear()
    return found


def test_whatever_may_take_long_in_a_runs_life_is_shown(
    seen: list[Work], gpt2: Path, few_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "task": "causal-lm",
        "model": {"name": str(gpt2)},
        "data": {"files": [str(few_texts)], "max_length": 64, "evaluation_fraction": 0.1},
        "batch": {"packing": True, "micro_batches": 2},
        "schedule": {"max_steps": 2},
        "output_dir": str(tmp_path / "out"),
    }
    run(Settings.model_validate(values), resume=False)
    assert amounts(seen) == {
        "looking for the data": "",
        "reading the data": "",
        "tokenizing the training texts": "108 of 108 texts",
        "tokenizing the evaluation texts": "12 of 12 texts",
        "packing": "0 of 114 texts",  # of fewer than 10,000 nothing is told
        "planning the steps": "",
        "reading the model": "",
    }

    run(Settings.model_validate(values | {"schedule": {"max_steps": 3}}), resume=True)
    resumed = amounts(seen)
    size = short(
        sum(
            path.stat().st_size
            for path in (tmp_path / "out" / "checkpoint-2").iterdir()
            if path.name != "manifest.json"
        )
    )
    assert resumed["verifying checkpoint-2"] == f"{size}B of {size}B"
    (done, total) = re.findall(r"\d+", resumed["loading checkpoint-2"])
    assert done == total != "0"

    evaluate_folder(str(tmp_path / "out"), str(few_texts), {})
    evaluated = amounts(seen)["evaluating"]
    assert re.fullmatch(r"(\d+) of \1 micro-batches", evaluated), evaluated

    predict_folder(str(tmp_path / "out"), str(few_texts), str(tmp_path / "said"), 1)
    assert amounts(seen) == {"reading the model": "", "predicting": "120 rows"}
