"""From lines of metrics.jsonl to the steps that trackers are sent, and what becomes of those that they do not take."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from distrain_trainer.errors import Superseded
from distrain_trainer.reporting.trackers import feed as feeds
from distrain_trainer.reporting.trackers.api import NOTHING, Results, Row, Status, TrackedRun
from distrain_trainer.reporting.trackers.feed import Feed
from distrain_trainer.reporting.trackers.rows import Rows
from distrain_trainer.storage.attempts import Fence, begin_attempt
from tracked import append, begin, conclude, evaluation_line, lines, training_line


def test_values_have_the_names_that_people_of_trackers_know(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out", [])
    append(folder, {"step": 4, "event": "start"}, training_line(5), evaluation_line(5), training_line(6))
    (row,) = Rows(folder / "metrics.jsonl", NOTHING).read() or []
    assert row.step == 5
    assert row.values == {
        "train/loss": 0.2,
        "train/learning_rate": 1e-3,
        "train/grad_norm": 1.0,
        "eval/loss": 0.4,
        "eval/accuracy": 0.8,
        "train/epoch": 0.5,
    }
    assert list(row.values)[-1] == "train/epoch"


def test_a_step_is_passed_on_when_it_is_whole_and_each_once(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out", [])
    rows = Rows(folder / "metrics.jsonl", after=2)
    append(folder, *lines(1, 9), training_line(10))
    assert [row.step for row in rows.read() or []] == list(range(3, 10))
    assert rows.read() is None
    append(folder, evaluation_line(10), {"step": 10, "event": "checkpoint"})
    assert rows.read() == []
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(training_line(11))[:20])
        file.flush()
        assert rows.read() == []
        file.write(json.dumps(training_line(11))[20:] + "\n")
    (row,) = rows.read() or []
    assert row.step == 10 and "eval/loss" in row.values
    assert [row.step for row in rows.read(last=True) or []] == [11]
    assert rows.read(last=True) is None


class Scripted:
    """A tracker that fails where it is told to. held: steps that it holds."""

    def __init__(self, fails: Sequence[str]):
        self.fails, self.held = list(fails), list[int]()
        self.ended: Status | None = None

    def act(self, what: str) -> None:
        if self.fails and self.fails[0] == what:
            self.fails.pop(0)
            raise OSError(f"no {what} at http://user:sesame-open@server")

    def open(self, kept: int) -> int:
        self.act("open")
        return max(self.held, default=NOTHING)

    def send(self, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows):
            if number == 7:
                self.act("send")
            self.held.append(row.step)

    def finish(self, status: Status, results: Results | None) -> None:
        self.act("finish")
        self.ended = status


def fed(folder: Path, tracker: Scripted, monkeypatch: pytest.MonkeyPatch, attempt: int = 0) -> tuple[Feed, list[str]]:
    """A feed of that tracker that has come to its end, and its complaints. The run ends when 39 steps have arrived."""
    monkeypatch.setattr(feeds, "make", lambda name, run: tracker)
    monkeypatch.setattr(feeds, "RETRY_AFTER", 0.01)
    complaints: list[str] = []
    feed = Feed("it", TrackedRun.read(folder), 0, Fence(folder, attempt), lambda name, why: complaints.append(why))
    feed.start()
    while feed.thread.is_alive() and len(tracker.held) < 39:
        time.sleep(0.01)
    feed.end("finished")
    feed.thread.join()
    return feed, complaints


@pytest.mark.parametrize("fails", [["open"], ["open", "open", "send"], ["send", "open", "send"]])
def test_a_tracker_that_fails_is_tried_again_and_gets_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: list[str]
) -> None:
    folder = begin(tmp_path / "out", [])
    append(folder, *lines(1, 40))
    conclude(folder, 40)
    tracker = Scripted(fails)
    feed, complaints = fed(folder, tracker, monkeypatch)
    assert tracker.held == list(range(1, 41)) and tracker.ended == "finished" and feed.done
    assert complaints == [f"no {fails[0]} at http://REDACTED@server"]


def test_one_that_fails_at_the_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(tmp_path / "out", [])
    append(folder, *lines(1, 40))
    conclude(folder, 40)
    feed, complaints = fed(folder, Scripted(["finish", "never"]), monkeypatch)
    assert not feed.done and not feed.worth_waiting_for and len(complaints) == 1


def test_an_attempt_that_was_superseded_sends_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(tmp_path / "out", [])
    append(folder, *lines(1, 40))
    begin_attempt(folder), begin_attempt(folder)
    with pytest.raises(Superseded):
        Fence(folder, 1).check()
    tracker = Scripted([])
    _, complaints = fed(folder, tracker, monkeypatch, attempt=1)
    assert tracker.held == [] and tracker.ended is None and complaints == []
