"""Messages: which are shown, what stands before them, and when they have a colour."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from distrain_trainer import console
from distrain_trainer.console import Level
from distrain_trainer.launch.node import speaker
from runs import finish, train

ALL = ["looked", "began", "distrain: slow", "distrain: broken"]


@pytest.fixture(autouse=True)
def as_before() -> Iterable[None]:
    yield
    console.configure("info")


def speak() -> None:
    """One message of each level."""
    console.debug("looked")
    console.say("began")
    console.warn("slow")
    console.error("broken")


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", ALL), ("info", ALL[1:]), ("warning", ALL[2:]), ("error", ALL[3:])]
)
def test_messages_below_the_level_are_not_shown(
    level: Level, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure(level)
    speak()
    said = capsys.readouterr()
    assert said.err.splitlines() == shown and not said.out


def test_where_several_speak_each_line_says_when_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure("info", "node 1 rank 8")
    speak()
    for line, text in zip(capsys.readouterr().err.splitlines(), ALL[1:], strict=True):
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ node 1 rank 8: {text}", line)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, ""),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, "node 1 rank 9"),
    ],
)
def test_a_worker_of_several_nodes_says_which_it_is(environment: Mapping[str, str], said: str) -> None:
    assert speaker(environment) == said


def on_a_terminal(**variables: str) -> str:
    """What a process shows whose stderr is a terminal."""
    ours, theirs = pty.openpty()
    program = "from distrain_trainer import console; console.say('began'); console.warn('slow'); console.error('no')"
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = inherited | {"TERM": "xterm"} | variables
    subprocess.run([sys.executable, "-c", program], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    os.close(ours)
    return shown


def test_warnings_and_errors_have_a_colour_on_a_terminal_unless_no_color_is_set() -> None:
    assert on_a_terminal() == "began\n\x1b[33mdistrain: slow\x1b[0m\n\x1b[31mdistrain: no\x1b[0m\n"
    assert on_a_terminal(NO_COLOR="1") == "began\ndistrain: slow\ndistrain: no\n"


def test_the_level_of_a_run_is_a_setting_that_a_resumed_run_may_change(bert: Path, texts: Path, tmp_path: Path) -> None:
    def run(steps: int, level: str, *more: str) -> str:
        options = ("--schedule.max_steps", str(steps), "--log_level", level, *more)
        return finish(train(bert, texts, tmp_path / "out", 1, *options)).stderr

    assert run(1, "error") == ""
    assert "attempt 2 starts its workers" in run(2, "debug", "--resume")
