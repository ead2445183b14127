"""Hangs are found by section, and what is merely slow is none."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from distrain_trainer.launch import workers as launch
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.signs import FORM, Section, Signs, read_sign, signs_file
from distrain_trainer.launch.watchdog import LEAST, Hang, limit, look
from distrain_trainer.launch.workers import Workers
from runs import Victim, train

MINUTE = 60.0
NOW = 1e6
"""Seconds of the machine's clock."""


class Lab:
    """Workers' files of signs, as they have been for some seconds. They share this process's state in /proc."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.workers: dict[int, tuple[int, Path]] = {}

    def worker(self, section: Section, quiet: float, longest: float = 0.0, step: int = 10, pid: int = 0) -> None:
        """A worker that has given its last sign `quiet` seconds ago. longest: of that section before."""
        rank = len(self.workers)
        path = signs_file(self.folder, rank)
        path.write_bytes(FORM.pack(NOW - quiet, section, step, 1, longest))
        self.workers[rank] = pid or os.getpid(), path

    def look(self) -> Hang | None:
        return look(self.workers, NOW)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


SLOW = {
    "a download and preparation of five hours": (Section.START, 5 * 60 * MINUTE, 0.0),
    "a second start that is slower than the first": (Section.START, 60 * MINUTE, 10.0),
    "a first step that compiles for 25 minutes": (Section.FIRST_STEP, 25 * MINUTE, 0.0),
    "a first step that was quick in the attempt before": (Section.FIRST_STEP, 25 * MINUTE, 5.0),
    "the first steps, before any is known": (Section.STEP, 20 * MINUTE, 0.0),
    "a short step that takes a minute": (Section.STEP, 59, 0.1),
    "a step of twice the usual": (Section.STEP, 2 * 45, 45.0),
    "a step of 2.9 times the usual": (Section.STEP, 2.9 * 100, 100.0),
    "a recompilation that was seen before": (Section.STEP, 9 * MINUTE, 4 * MINUTE),
    "a first wait for data": (Section.DATA, 25 * MINUTE, 0.0),
    "a slow read of data": (Section.DATA, 55, 0.01),
    "data that come as slowly as they did": (Section.DATA, 5 * MINUTE, 4 * MINUTE),
    "the first evaluation": (Section.EVALUATION, 25 * MINUTE, 0.0),
    "a long micro-batch of an evaluation": (Section.EVALUATION, 50, 1.0),
    "a metric of the user's that takes its time": (Section.EVALUATION, 2.5 * MINUTE, MINUTE),
    "the first checkpoint of a large model": (Section.CHECKPOINT, 25 * MINUTE, 0.0),
    "a checkpoint on a volume that is slow today": (Section.CHECKPOINT, 28 * MINUTE, 10.0),
    "a checkpoint that always takes 15 minutes": (Section.CHECKPOINT, 40 * MINUTE, 15 * MINUTE),
    "copying the final model": (Section.END, 25 * MINUTE, 0.0),
    "a report after a quick end before": (Section.END, 25 * MINUTE, 1.0),
}


@pytest.mark.parametrize("case", SLOW)
def test_what_is_merely_slow_is_no_hang(lab: Lab, case: str) -> None:
    section, quiet, longest = SLOW[case]
    for _ in range(2):
        lab.worker(section, quiet, longest)
    assert lab.look() is None


@pytest.mark.parametrize("section", Section)
@pytest.mark.parametrize("longest", [0.0, 0.5, 100.0])
def test_every_section_has_an_end(lab: Lab, section: Section, longest: float) -> None:
    lab.worker(section, 0, longest)
    sign = read_sign(lab.workers[0][1])
    assert sign is not None
    lab.worker(section, limit(sign) + 1, longest)
    hang = lab.look()
    assert hang is not None and hang.local_rank == 1


def test_a_step_is_found_at_three_times_the_longest_and_at_60_seconds_at_least(lab: Lab) -> None:
    lab.worker(Section.STEP, 61, longest=0.2)
    assert lab.look() == Hang(0, read_sign(lab.workers[0][1]), 61, "R", False)  # type: ignore[arg-type]
    lab.worker(Section.STEP, 301, longest=100)
    lab.workers.pop(0)
    hang = lab.look()
    assert hang is not None and hang.sentence == "has given no sign for 301 s in step 10"


def test_the_one_that_is_behind_is_named_and_not_those_that_wait_for_it(lab: Lab) -> None:
    lab.worker(Section.STEP, 70, longest=0.1, step=12)
    lab.worker(Section.STEP, 80, longest=0.1, step=11)
    lab.worker(Section.STEP, 75, longest=0.1, step=12)
    hang = lab.look()
    assert hang is not None and (hang.local_rank, hang.alone) == (1, True)


def test_where_all_wait_nobody_is_blamed(lab: Lab) -> None:
    for quiet in (70, 80):
        lab.worker(Section.STEP, quiet, longest=0.1)
    hang = lab.look()
    assert hang is not None and not hang.alone


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that was stopped by SIGSTOP."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("section", Section)
def test_a_process_that_is_stopped_is_found_whatever_it_was_doing(lab: Lab, stopped: int, section: Section) -> None:
    lab.worker(section, LEAST - 1, pid=stopped)
    assert lab.look() is None
    lab.workers.clear()
    lab.worker(section, LEAST + 1, pid=stopped)
    hang = lab.look()
    assert hang is not None and hang.alone and "(it was stopped by a signal)" in hang.sentence


def test_signs_learn_how_long_a_section_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    signs = Signs(signs_file(tmp_path, 0))
    for step, seconds in enumerate((5.0, 7.0, 6.0)):
        signs.give(Section.STEP, step)
        clock[0] += seconds
    signs.give(Section.STEP, 3)
    sign = read_sign(signs_file(tmp_path, 0))
    assert sign is not None and (sign.longest, sign.step, limit(sign)) == (7.0, 3, 60.0)


def test_a_worker_that_even_sigkill_does_not_end_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(arguments: list[str]) -> NoReturn:
        time.sleep(600)
        os._exit(0)

    kill = os.kill
    monkeypatch.setattr(launch, "SECONDS_TO_DIE", 0.2)
    workers = Workers(work, [], Node(0, 1, 2, "node-0", 1), 1, tmp_path / "logs" / "node-0.attempt-1.log", tmp_path)
    stuck = next(iter(workers.signs().values()))[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: None if pid == stuck else kill(pid, number))
        workers.kill()
        workers.wait()
    assert any("process 0 cannot be ended (state S)" in report.sentence for report in workers.failures)
    kill(stuck, signal.SIGKILL)
    os.waitpid(stuck, 0)


@pytest.mark.matrix
def test_a_run_with_a_stopped_process_says_so_and_goes_on(bert: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    steps = ("--schedule.max_steps", "40", "--checkpoint.every_steps", "5")
    run = Victim(train(bert, texts, output, 2, *steps), output)
    assert run.wait_for(lambda: run.step() >= 7)
    os.kill(run.workers()[1], signal.SIGSTOP)
    said = run.process.communicate(timeout=300)[1]
    assert run.process.returncode == 0, said
    assert "process 1 has given no sign for 6" in said and "(it was stopped by a signal); starting again" in said
    stacks = (output / "errors" / "attempt-1" / "node-0.stacks.txt").read_text()
    assert "--- process 0" in stacks and "File " in stacks
