import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pytest import CaptureFixture, MonkeyPatch

from distrain_trainer import bars
from distrain_trainer.console import clock, say, short
from distrain_trainer.reporting import progress
from distrain_trainer.reporting.progress import Progress, evaluation_sentence

Clock = Callable[[float], None]
"""Moves the clock by so many seconds."""


def train_line(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step / 100, "loss": 1 / step, "tokens_per_second": 12345.6, **more}


def logged(capsys: CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was printed, without the number of steps in all."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line.pop("steps") for line in lines)
    return lines


@pytest.fixture
def clock_hand(monkeypatch: MonkeyPatch) -> Clock:
    """Moves the clock that progress reads."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_without_a_terminal_a_burst_of_steps_logs_the_first_and_the_last(capsys: CaptureFixture[str]) -> None:
    with Progress(1000, terminal=False) as shown:
        for step in range(1, 1001):
            shown.step(train_line(step))
    lines = logged(capsys)
    assert [lines[0]["step"], lines[-1]["step"]] == [1, 1000]
    assert len(lines) <= 4


def test_without_a_terminal_slow_steps_are_all_logged(capsys: CaptureFixture[str], clock_hand: Clock) -> None:
    with Progress(5, terminal=False) as shown:
        for step in range(1, 6):
            clock_hand(1.5)
            shown.step(train_line(step))
    assert logged(capsys) == [train_line(step) for step in range(1, 6)]


def test_at_most_one_step_a_second_is_logged(capsys: CaptureFixture[str], clock_hand: Clock) -> None:
    with Progress(1000, terminal=False) as shown:
        for step in range(1, 101):
            shown.step(train_line(step))
            clock_hand(0.25)
    assert [line["step"] for line in logged(capsys)] == [*range(1, 101, 4), 100]


def test_evaluations_and_events_are_always_logged_and_after_their_step(
    capsys: CaptureFixture[str], clock_hand: Clock
) -> None:
    with Progress(100, terminal=False) as shown:
        for step in range(1, 4):
            shown.step(train_line(step))
        shown.step({"step": 3, "eval_loss": 0.5})
        shown.step({"step": 3, "event": "checkpoint"})
    kinds = [(line["step"], *(line.keys() & {"loss", "eval_loss", "event"})) for line in logged(capsys)]
    assert kinds == [(1, "loss"), (3, "loss"), (3, "eval_loss"), (3, "event")]


def test_a_run_that_ends_early_logs_its_last_step(capsys: CaptureFixture[str]) -> None:
    with Progress(1000, terminal=False) as shown:
        for step in range(1, 8):
            shown.step(train_line(step))
    assert [line["step"] for line in logged(capsys)] == [1, 7]


def test_sentences_go_to_stderr_and_data_to_stdout(capsys: CaptureFixture[str]) -> None:
    say("before any bar")
    with Progress(2, terminal=False) as shown:
        shown.say("[2 rows] were empty")
        shown.step(train_line(1))
    said = capsys.readouterr()
    assert said.err == "before any bar\n[2 rows] were empty\n"
    assert json.loads(said.out) == train_line(1, steps=2)


def test_a_loss_that_is_not_finite_is_null_in_the_log(capsys: CaptureFixture[str]) -> None:
    with Progress(1, terminal=False) as shown:
        shown.step(train_line(1, grad_norm=float("nan")))
    assert logged(capsys)[0]["grad_norm"] is None


def on_terminal(
    capsys: CaptureFixture[str],
    monkeypatch: MonkeyPatch,
    columns: int,
    act: Callable[[Progress], None],
    **arguments: Any,
) -> tuple[str, list[str]]:
    """What a terminal of that width shows, as plain lines: `(stdout, stderr lines)`."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with Progress(terminal=True, **arguments) as shown:
        act(shown)
    said = capsys.readouterr()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.err)
    return said.out, re.split(r"[\r\n]+", text)


@pytest.mark.parametrize("columns", [40, 50, 80, 120])
def test_on_a_terminal_the_bar_stays_on_one_line(
    capsys: CaptureFixture[str], monkeypatch: MonkeyPatch, columns: int
) -> None:
    out, lines = on_terminal(
        capsys,
        monkeypatch,
        columns,
        lambda shown: shown.step(train_line(123456)),
        total=1500000,
        start_step=123000,
    )
    assert out == ""
    assert max(map(len, lines)) <= columns
    last = [line for line in lines if line][-1]
    assert last.startswith("step  123456/1500000 ")
    figures = ["loss 0.0000"] * (columns >= 50) + ["12.3k tokens/s"] * (columns >= 80) + ["took 0:00"]
    assert "  ".join(figures) in last and ("epoch" in last) == (columns >= 120)
    assert columns < 50 or "━" in last


def test_on_a_terminal_sentences_and_evaluations_stand_above_the_bar(
    capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    def act(shown: Progress) -> None:
        shown.step(train_line(40, loss=None))
        shown.say("[data] 3 rows were truncated")
        shown.evaluating(3, 8)
        shown.step({"step": 40, "event": "nonfinite", "message": "the gradient is not finite"})
        shown.step({"step": 40, "event": "checkpoint"})

    _, lines = on_terminal(capsys, monkeypatch, 100, act, total=100)
    assert "[data] 3 rows were truncated" in lines
    assert "step 40: the gradient is not finite" in lines
    assert "loss not finite" in [line for line in lines if line][-1]


RUN = """
from distrain_trainer.reporting.progress import Progress
with Progress(431) as shown:
    for step in range(1, 432):
        shown.step({"step": step, "epoch": step / 144, "loss": 2.4 / step, "tokens_per_second": 1680.0})
        if step == 144:
            for batch in range(8):
                shown.evaluating(batch, 8)
            shown.say("eval at step 144: loss 0.7689, accuracy 0.7753, f1 macro 0.7511; new best accuracy")
"""


def screen(written: str, columns: int) -> list[str]:
    """The lines that a terminal of that width shows in the end."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|.", written, re.DOTALL):
        if token in ("\r", "\n"):
            row, column = row + (token == "\n"), 0 if token == "\r" else column
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token.endswith("A") and token.startswith("\x1b"):
            row -= int(token[2:-1] or 1)
        elif not token.startswith("\x1b"):
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("columns", [50, 100])
def test_on_a_real_terminal_nothing_is_garbled(columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    with suppress(OSError):  # EIO: the other end is closed
        while more := os.read(ours, 65536):
            written += more
    os.close(ours)
    assert process.wait() == 0
    text = written.decode()
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))
    assert max(len(line) for line in frames if line.startswith("step")) <= columns
    *sentence, bar = [line for line in screen(text, columns) if line]
    assert " ".join(sentence) == "eval at step 144: loss 0.7689, accuracy 0.7753, f1 macro 0.7511; new best accuracy"
    assert re.fullmatch(r"step 431/431 ━+ (epoch 2.99  )?loss 0.0056  (1.68k tokens/s  )?took \d:\d\d", bar), bar


def test_an_evaluation_is_a_sentence_that_tells_a_new_best() -> None:
    line = {"step": 40, "epoch": 1.0, "eval_loss": 0.25, "eval_f1_macro": 0.875, "eval_f1_micro": 0.9}
    said, headline = "eval at step 40: loss 0.2500, f1 macro 0.8750", ("f1_macro",)
    assert evaluation_sentence(line, headline, None) == said
    assert evaluation_sentence(line, headline, "f1_macro") == f"{said}; new best f1 macro"


def test_events_are_told_without_a_terminal_too(capsys: CaptureFixture[str]) -> None:
    with Progress(100, terminal=False) as shown:
        shown.step({"step": 40, "event": "early_stop", "message": "stopping early"})
    assert capsys.readouterr().err == "step 40: stopping early\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.5, "0.5"), (950, "950"), (999.9, "1k"), (12345, "12.3k"), (4.56e6, "4.56M"), (7e12, "7T")],
)
def test_numbers_are_shortened(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (59.6, "1:00"), (754, "12:34"), (5025, "1:23:45")])
def test_time_spans_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_without_a_terminal_a_long_evaluation_is_told_of_and_a_short_one_is_not(
    capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars, "monotonic", lambda: now[0])
    with Progress(10, terminal=False) as shown:
        for seconds in (0.1, 1.0):
            for done in range(1, 11):
                shown.evaluating(done, 10)
                now[0] += seconds
    assert capsys.readouterr().err.splitlines() == [
        "evaluating: 3 of 10 micro-batches, 0:05 left",
        "evaluating: 7 of 10 micro-batches, 0:03 left",
    ]
