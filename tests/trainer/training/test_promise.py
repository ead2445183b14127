"""The promise: a run ends the same whatever dies on the way, and whatever number of processes it ran on."""

import json
import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from distrain_trainer.storage.attempts import current_attempt
from runs import Victim, digest, end, finish, losses, metrics, train


def works_at(victim: Victim, attempt: int) -> bool:
    return bool(victim.workers()) and current_attempt(victim.output) == attempt


@pytest.mark.parametrize(("wanted", "processes"), [(3, 2), pytest.param(10, 4, marks=pytest.mark.matrix)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    bert: Path, texts: Path, tmp_path: Path, wanted: int, processes: int
) -> None:
    options = ("--schedule.max_steps", "60", "--checkpoint.every_steps", "4", "--evaluation.every_steps", "30")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(train(bert, texts, whole, processes, *options))

    draw, inside_a_write, kills = random.Random(20), 0, 0
    while kills < wanted or not inside_a_write:
        assert kills < 20, "no kill hit a checkpoint write"
        victim = Victim(train(bert, texts, broken, processes, *options, "--resume"), broken)
        moment = min(victim.step() + draw.randint(1, 5), 55)
        alive = victim.wait_for_step(moment)
        if kills % 3 == 2:
            alive = alive and victim.wait_for(victim.writing)
        victim.kill()
        assert alive, "the run ended before it could be killed"
        kills += 1
        inside_a_write += bool(victim.writing())

    finish(train(bert, texts, broken, processes, *options, "--resume"))
    assert digest(broken / "final") == digest(whole / "final")
    assert digest(broken / "checkpoint-60") == digest(whole / "checkpoint-60")
    assert losses(broken) == losses(whole)
    assert not list(broken.glob("tmp.*"))


SIXTY_STEPS = ("--schedule.max_steps", "60")


@pytest.fixture(scope="module")
def whole(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixty steps that nobody has disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(train(bert, texts, output, 2, *SIXTY_STEPS))
    return output


def test_a_worker_that_dies_costs_an_attempt_and_nothing_else(
    bert: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    victim = Victim(train(bert, texts, output, 2, *SIXTY_STEPS, "--checkpoint.every_steps", "5"), output)
    assert victim.wait_for(lambda: victim.step() >= 10)
    os.kill(victim.workers()[1], signal.SIGKILL)
    _, said = victim.process.communicate(timeout=300)
    assert victim.process.returncode == 0, said
    assert "process 1 was killed (out of memory, or by hand); starting again" in said and "Traceback" not in said
    assert digest(output / "final") == digest(whole / "final")
    assert losses(output) == losses(whole)


def test_a_run_that_never_gets_on_ends_with_69(bert: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--schedule.epochs", "500", "--checkpoint.max_restarts", "1")
    victim = Victim(train(bert, texts, output, 1, *options), output, {"RUN_NODE_NAME": "machine-7"})
    for attempt in (1, 2):
        log = output / "logs" / f"node-0.attempt-{attempt}.log"
        assert victim.wait_for(partial(works_at, victim, attempt)), log
        os.kill(victim.workers()[0], signal.SIGKILL)
    _, said = victim.process.communicate(timeout=300)
    assert victim.process.returncode == 69, said
    assert "restarted 1 time without a new checkpoint (checkpoint.max_restarts)" in said
    assert "node 0 (machine-7): process 0 was killed" in said
    error = json.loads((output / "errors" / "attempt-2" / "node-0.json").read_text())
    assert (error["exit_code"], error["node"]) == (137, "machine-7")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.matrix)])
def test_a_run_that_is_asked_to_stop_saves_leaves_with_143_and_ends_the_same(
    bert: Path, texts: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    options = (*SIXTY_STEPS, "--checkpoint.background", "true", "--checkpoint.every_steps", "3")
    stopped = tmp_path / "stopped"
    victim = Victim(train(bert, texts, stopped, 2, *options), stopped)
    assert victim.wait_for(lambda: victim.step() >= 7)
    victim.process.send_signal(number)
    _, said = victim.process.communicate(timeout=300)
    assert victim.process.returncode == 143, said
    step = metrics(stopped)[-1]["step"]
    assert f"stopped at step {step} of 60" in said and "Traceback" not in said
    assert (stopped / f"checkpoint-{step}" / "manifest.json").exists()

    finish(train(bert, texts, stopped, 2, *options, "--resume"))
    assert digest(stopped / "final") == digest(whole / "final")
    assert losses(stopped) == losses(whole)


def test_a_run_that_is_stopped_before_its_first_step_says_how_to_start_it(
    bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    options = train(bert, few_texts, tmp_path / "out", 1)
    victim = Victim([*options, "--schedule.epochs", "500"], tmp_path / "out")
    assert victim.wait_for((tmp_path / "out" / "settings.json").exists)
    victim.process.send_signal(signal.SIGINT)
    said = end(victim, 143)
    done = victim.step()
    assert f"stopped {f'at step {done} of' if done else 'before the first step; start it again with --resume'}" in said
    finish([*options, "--schedule.max_steps", str(done + 2), "--resume"])
    assert list(losses(tmp_path / "out")) == list(range(1, done + 3))


def test_a_second_ctrl_c_leaves_at_once(bert: Path, texts: Path, tmp_path: Path) -> None:
    victim = Victim(train(bert, texts, tmp_path / "out", 2, "--schedule.epochs", "500"), tmp_path / "out")
    assert victim.wait_for(lambda: victim.step() >= 5)
    children = victim.workers()
    for child in children:  # so that nobody can answer the first one
        os.kill(child, signal.SIGSTOP)
    victim.process.send_signal(signal.SIGINT)
    assert victim.process.stderr is not None
    assert any("stopping" in line for line in victim.process.stderr), "the first Ctrl-C was not answered"
    victim.process.send_signal(signal.SIGINT)
    victim.process.communicate(timeout=300)
    assert victim.process.returncode == 130
    assert not any(Path(f"/proc/{child}").exists() for child in children)


HUNDRED_STEPS = ("--schedule.max_steps", "100")


@pytest.fixture(scope="module")
def alone(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process."""
    output = tmp_path_factory.mktemp("alone") / "out"
    finish(train(bert, texts, output, 1, *HUNDRED_STEPS))
    return output


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.matrix)])
def together(request: pytest.FixtureRequest, bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on several."""
    output = tmp_path_factory.mktemp("together") / "out"
    finish(train(bert, texts, output, request.param, *HUNDRED_STEPS))
    return output


def test_each_loss_is_the_same_on_any_number_of_processes(alone: Path, together: Path) -> None:
    wanted = losses(alone)
    assert len(wanted) == 100
    assert losses(together) == pytest.approx(wanted, abs=1e-5)


def test_evaluation_is_the_same_on_any_number_of_processes(alone: Path, together: Path) -> None:
    wanted, found = ([line for line in metrics(output) if "eval_loss" in line][-1] for output in (alone, together))
    assert found == pytest.approx(wanted, abs=1e-5)
