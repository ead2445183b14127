"""What once ended a run for good, or never: real processes, real signals, and the run ends the same all the same."""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from distrain_trainer.storage.attempts import read_attempts
from distrain_trainer.storage.layout import published_checkpoints
from runs import Victim, digest, end, finish, losses, train
from two_nodes import Cluster

pytestmark = [pytest.mark.matrix, pytest.mark.long]
STEPS = ("--schedule.max_steps", "24", "--checkpoint.every_steps", "4", "--run_id", "space/run1")
ENDLESS = ("--schedule.max_steps", "100000", "--checkpoint.every_steps", "50000", "--run_id", "space/run1")


@pytest.fixture(scope="module")
def whole(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to, as one process."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(train(bert, texts, output, 1, *STEPS))
    return output


@pytest.fixture(scope="module")
def of_two(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as two processes."""
    output = tmp_path_factory.mktemp("two") / "out"
    finish(train(bert, texts, output, 2, *STEPS))
    return output


def began(output: Path, attempt: int, node: int = 0) -> Callable[[], bool]:
    """Whether an attempt has workers on a node."""
    return (output / "logs" / f"node-{node}.attempt-{attempt}.log").exists


def test_sigterm_while_data_are_read_is_no_fault_of_the_data(bert: Path, texts: Path, tmp_path: Path) -> None:
    output, many = tmp_path / "out", tmp_path / "many.jsonl"
    many.write_text(texts.read_text() * 200)
    run = Victim(train(bert, many, output, 1, *STEPS), output)
    assert run.wait_for(lambda: began(output, 1)() and run.workers()), run.process.communicate()[1]
    log = output / "logs" / "node-0.attempt-1.log"
    assert run.wait_for(lambda: "reading and tokenizing" in log.read_text()), run.process.communicate()[1]
    run.process.send_signal(signal.SIGTERM)
    end(run, code=143)
    assert not published_checkpoints(output)


def test_a_node_that_is_lost_three_times_before_the_first_step_is_not_the_same_failure(
    bert: Path, texts: Path, of_two: Path, tmp_path: Path
) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    nodes = [cluster.node(0), cluster.node(1)]
    for attempt in (1, 2, 3):
        assert nodes[0].wait_for(began(cluster.output, attempt, node=1)), nodes[0].process.communicate()[1]
        assert nodes[0].step() == 0
        nodes[1].kill()
        nodes[1] = cluster.node(1)
    said = [end(node) for node in nodes]
    assert read_attempts(cluster.output).attempt >= 4, said
    assert digest(cluster.output / "final") == digest(of_two / "final")


def test_a_loaders_process_that_is_killed_is_started_again(
    bert: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run = Victim(train(bert, texts, output, 1, *STEPS, "--data.workers", "1"), output)
    assert run.wait_for(lambda: run.step() >= 5)
    children = [child for worker in run.workers() for child in psutil.Process(worker).children()]
    loaders = [child for child in children if child.name().startswith(("python", "pt_data"))]
    assert loaders, children
    loaders[0].kill()
    end(run)
    assert digest(output / "final") == digest(whole / "final")
    if read_attempts(output).attempt > 1:  # unless all rows had been read
        reports = list((output / "errors" / "attempt-1").glob("node-0.json"))
        assert reports and '"exit_code": 137' in reports[0].read_text()


def test_sigterm_is_heard_while_processes_wait_for_one_that_does_not_come(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    """Before the first step there is nothing to save, so they are not asked but ended."""
    cluster = Cluster(bert, texts, tmp_path / "out", *ENDLESS)
    nodes = [cluster.node(0), cluster.node(1)]
    assert nodes[1].wait_for(lambda: began(cluster.output, 1, node=1)() and nodes[1].workers())
    psutil.Process(nodes[1].workers()[0]).suspend()
    assert nodes[0].wait_for(lambda: began(cluster.output, 1)() and nodes[0].workers())
    assert nodes[0].step() == 0
    time.sleep(3)
    nodes[0].process.send_signal(signal.SIGTERM)
    assert nodes[0].process.wait(timeout=60) == 143, nodes[0].process.communicate()[1]
    for node in nodes:
        node.kill()


@pytest.mark.parametrize("content", ["", "{", '{"attempt": "seven"}', "\0" * 64])
def test_a_damaged_record_of_attempts_is_set_aside(
    bert: Path, texts: Path, whole: Path, tmp_path: Path, content: str
) -> None:
    output = tmp_path / "out"
    run = Victim(train(bert, texts, output, 1, *STEPS), output)
    assert run.wait_for(lambda: run.step() >= 6)
    run.kill()
    (output / "attempt.json").write_text(content)
    finish(train(bert, texts, output, 1, *STEPS))
    assert read_attempts(output).attempt == 2
    assert digest(output / "final") == digest(whole / "final") and losses(output) == losses(whole)


def test_a_worker_that_somebody_stops_spends_a_restart(bert: Path, texts: Path, tmp_path: Path) -> None:
    """As a watcher of memory does: the run was not asked, and does not begin anew for ever."""
    output = tmp_path / "out"
    run = Victim(train(bert, texts, output, 1, *ENDLESS, "--checkpoint.max_restarts", "1"), output)
    for attempt in (1, 2):
        assert run.wait_for(began(output, attempt)) and run.wait_for(run.workers)
        os.kill(run.workers()[0], signal.SIGTERM)  # before it has a step to save
    said = end(run, code=69)
    assert read_attempts(output).attempt == 2 and "checkpoint.max_restarts" in said


def test_a_port_that_is_taken_is_tried_again_without_hurry(
    bert: Path, texts: Path, of_two: Path, tmp_path: Path
) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("0.0.0.0", cluster.port))
        taken.listen()
        nodes = [cluster.node(0), cluster.node(1)]
        time.sleep(8)
        assert nodes[0].process.poll() is None, nodes[0].process.communicate()[1]
    said = [end(node) for node in nodes]
    assert len(said[0].splitlines()) < 60, said[0]
    assert digest(cluster.output / "final") == digest(of_two / "final")


def test_a_run_whose_reader_has_gone_saves_what_it_has(bert: Path, texts: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = Victim(train(bert, texts, output, 1, *STEPS, "--checkpoint.every_steps", "1000"), output)
    assert run.process.stderr is not None
    run.process.stderr.close()
    assert run.wait_for(lambda: run.step() >= 6)
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(timeout=120) == 143
    assert published_checkpoints(output), "it was asked to stop and has saved nothing"
    finish(train(bert, texts, output, 1, *STEPS))
    assert digest(output / "final") == digest(whole / "final")


def test_a_stranger_at_the_same_address_is_turned_away(bert: Path, texts: Path, of_two: Path, tmp_path: Path) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    stranger = Cluster(bert, texts, tmp_path / "other", *STEPS[:-1], "space/run2")
    stranger.port = cluster.port
    nodes = [cluster.node(0), stranger.node(1), cluster.node(1)]
    for node in (nodes[0], nodes[2]):
        end(node)
    nodes[1].kill()
    assert digest(cluster.output / "final") == digest(of_two / "final")


def test_all_nodes_leave_with_71_when_the_time_is_up(bert: Path, texts: Path, tmp_path: Path) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *ENDLESS, "--max_hours", "0.004")
    nodes = [cluster.node(0), cluster.node(1)]
    for node in nodes:
        end(node, code=71)
    steps = [int(path.name.rpartition("-")[2]) for path in published_checkpoints(cluster.output)]
    assert max(steps) == max(losses(cluster.output))


ENDING = """
import os, sys
code, once = int(sys.argv.pop(1)), sys.argv.pop(1)
import torch
step = torch.optim.AdamW.step
taken = 0
def end(self, *args, **more):
    global taken
    taken += 1
    if taken == 6 and not os.path.exists(once):
        open(once, "w").close()
        os._exit(code)
    return step(self, *args, **more)
torch.optim.AdamW.step = end
from distrain_k8s.cli import main
main()
"""
"""The command whose worker ends without a word in its sixth step, once. Workers are forked from it."""


@pytest.mark.parametrize(("code", "ends"), [(255, 0), (70, 70), (1, 70)])
def test_a_worker_that_ends_without_a_word(
    bert: Path, texts: Path, whole: Path, tmp_path: Path, code: int, ends: int
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", ENDING, str(code), str(tmp_path / "once")]
    run = Victim(train(bert, texts, output, 1, *STEPS), output, command=command)
    said = run.process.communicate(timeout=300)[1]
    assert (tmp_path / "once").exists(), said
    assert run.process.returncode == ends, said


def test_a_folder_that_is_removed_is_not_begun_anew(bert: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = Victim(train(bert, texts, output, 1, *ENDLESS), output)
    assert run.wait_for(lambda: run.step() >= 5)
    shutil.rmtree(output, ignore_errors=True)
    os.kill(run.workers()[0], signal.SIGKILL)
    said = run.process.communicate(timeout=300)[1]
    assert run.process.returncode == 74, said
    assert "no longer" in said
    assert not published_checkpoints(output)
