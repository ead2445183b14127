"""A process that is slower than the others is named, and no other."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrain_trainer.training.stragglers import RATIO, SLOW_STEPS, STEPS, Stopwatch, Straggler, Stragglers
from runs import Victim, metrics, train


def named(world: int, *paces: list[float]) -> list[Straggler | None]:
    stragglers = Stragglers([f"node {rank}" for rank in range(world)])
    return [stragglers.see(each) for each in paces]


def test_a_process_that_is_slow_for_long_is_named_with_its_node() -> None:
    found = named(4, *[[1.0, 1.1, 2.1, 0.9]] * STEPS)
    assert found[:-1] == [None] * (STEPS - 1)
    assert found[-1] == Straggler(2, "node 2", 2.1)
    assert "process 2 on node 2 takes 2.1 x as long" in found[-1].sentence


def test_of_two_processes_the_slower_is_named() -> None:
    assert named(2, *[[1.0, 2.0]] * STEPS)[-1] == Straggler(1, "node 1", 2.0)


def test_a_process_is_news_once() -> None:
    stragglers = Stragglers(["a", "b"])
    assert [stragglers.is_news(Straggler(rank, "", 2.0)) for rank in (1, 1, 0, 1)] == [True, False, True, False]


@given(st.lists(st.lists(st.floats(0.7, 1.0), min_size=3, max_size=3), min_size=1, max_size=120))
def test_nobody_is_named_while_all_are_alike(paces: list[list[float]]) -> None:
    assert set(named(3, *paces)) == {None}


def test_a_step_in_which_another_is_slow_hides_nobody() -> None:
    slow, all_are = [1.0, 2.0, 1.0], [2.0, 2.0, 2.0]
    assert named(3, *[*[slow] * 24, all_are] * 2)[-1] == Straggler(1, "node 1", 2.0)


@given(st.integers(1, SLOW_STEPS - 1), st.floats(RATIO * 1.01, 100))
def test_a_slow_while_names_nobody(steps: int, ratio: float) -> None:
    paces = [*[[1.0, 1.0, ratio]] * steps, *[[1.0, 1.0, 1.0]] * STEPS] * 3
    assert set(named(3, *paces)) == {None}


def test_who_computes_nothing_is_neither_slow_nor_the_measure() -> None:
    assert set(named(3, *[[1.0, 0.0, 0.0]] * 2 * STEPS)) == {None}
    assert named(3, *[[1.0, 2.0, 0.0]] * STEPS)[-1] == Straggler(1, "node 1", 2.0)


def test_a_stopwatch_counts_forward_passes_of_real_tokens() -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    with stopwatch.forward(0):
        time.sleep(0.05)
    assert stopwatch.pace() == 0
    for _ in range(2):
        with stopwatch.forward(10):
            time.sleep(0.05)
    assert stopwatch.pace() >= 0.005
    assert stopwatch.pace() == 0


@pytest.mark.matrix
def test_a_process_that_is_held_up_is_named_by_its_run(bert: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    steps = ("--schedule.max_steps", "5000", "--checkpoint.every_steps", "5000", "--data.evaluation_fraction", "0")
    run = Victim(train(bert, texts, output, 2, *steps), output)
    assert run.wait_for(lambda: run.step() >= 5), run.process.communicate()
    slow = run.workers()[1]
    over = threading.Event()

    def hold_up() -> None:
        while not over.is_set():
            for number, seconds in ((signal.SIGSTOP, 0.02), (signal.SIGCONT, 0.001)):
                os.kill(slow, number)
                time.sleep(seconds)

    holder = threading.Thread(target=hold_up)
    holder.start()
    try:
        assert run.wait_for(lambda: '"event": "straggler"' in (output / "metrics.jsonl").read_text())
    finally:
        over.set()
        holder.join()
        os.kill(slow, signal.SIGCONT)
        run.process.send_signal(signal.SIGTERM)
        said = run.process.communicate(timeout=120)[1]
    (told,) = [line for line in metrics(output) if line.get("event") == "straggler"]
    assert told["message"].startswith("process 1 on node 0 takes ")
    assert "process 1 on node 0 takes " in said
    newest = [line for line in metrics(output) if line.get("straggler")]
    assert newest and all(line["straggler"]["process"] == 1 for line in newest)
