"""Nodes that are lost and stay away: the others go on, in the same steps, and let them in when they are back."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed import DistError

from distrain_trainer.errors import FailureReport, LostPeer
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.store import open_store
from distrain_trainer.storage.attempts import Attempts, FailedAttempt, ended, following, read_attempts
from runs import Victim, finish, losses, metrics, train
from two_nodes import Cluster

RUN_ID = "space/run1"
RUN = ("--schedule.max_steps", "30", "--checkpoint.every_steps", "5", "--run_id", RUN_ID)
LONG = (
    *("--schedule.max_steps", "40", "--checkpoint.every_steps", "4", "--checkpoint.background", "true"),
    *("--run_id", RUN_ID),
)
ELASTIC = ("--elastic.min_nodes", "1", "--elastic.wait_minutes", "0.05")
PATIENT = ("--elastic.min_nodes", "1", "--elastic.wait_minutes", "0.3")
"""For nodes that are there and may be slow to say so."""
HELD = 45.0
"""Seconds that a worker may be stopped: after 60 it counts as one that hangs."""


def said_at_the_end(node: Victim) -> str:
    said: str = node.process.communicate(timeout=600)[1]
    assert node.process.returncode == 0, said
    assert "Traceback" not in said
    return said


def nodes_of_steps(folder: Path) -> list[int]:
    """How many nodes took each step."""
    return [line["nodes"] for line in metrics(folder) if "loss" in line]


def agree(folder: Path, whole: Path) -> bool:
    """Whether a run took the steps of another, with its losses to 1e-5."""
    return losses(folder) == pytest.approx(losses(whole), abs=1e-5)


def test_the_others_go_on_without_a_node_that_stays_away(bert: Path, texts: Path, tmp_path: Path) -> None:
    finish(train(bert, texts, tmp_path / "whole", 1, *RUN))
    cluster = Cluster(bert, texts, tmp_path / "out", *RUN, *ELASTIC)
    nodes = [cluster.node(0), cluster.node(1)]
    assert nodes[0].wait_for(lambda: nodes[0].step() >= 12)
    nodes[1].kill()
    said = said_at_the_end(nodes[0])
    assert (
        "goes on with 1 of 2 nodes, without node 1; whoever comes back takes part from the next checkpoint on" in said
    )
    assert agree(cluster.output, tmp_path / "whole")
    taken = nodes_of_steps(cluster.output)
    assert set(taken[:10]) == {2} and set(taken[20:]) == {1}
    attempts = read_attempts(cluster.output)
    assert (attempts.attempt, attempts.nodes, attempts.spent) == (2, [0], 0)
    [_, resumed] = [line for line in metrics(cluster.output) if line.get("event") in ("start", "resume")]
    assert {name: resumed[name] for name in ("processes", "nodes", "absent")} == {
        "processes": 1,
        "nodes": 1,
        "absent": [1],
    }
    assert "is finished" in said_at_the_end(cluster.node(1))


@pytest.fixture(scope="module")
def whole(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long run as one process takes it."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(train(bert, texts, output, 1, *LONG))
    return output


def taking_part(node: Victim, count: int) -> Callable[[], bool]:
    """Whether the newest step was taken by so many nodes."""
    return lambda: nodes_of_steps(node.output)[-1:] == [count]


def hold_until_there(cluster: Cluster, node: Victim, others: tuple[int, ...]) -> None:
    """Stops node 0's worker until others have come to the rendezvous, so that the run is not over before they have."""

    def there() -> bool:
        with suppress(LostPeer, DistError):
            store = open_store(Node(1, cluster.nodes, 1, "127.0.0.1", cluster.port), RUN_ID)
            number = int(store.get("rendezvous"))
            return store.check([f"{number}/node/{index}" for index in others])
        return False

    [worker], until = node.workers(), time.monotonic() + HELD
    os.kill(worker, signal.SIGSTOP)
    while not there() and time.monotonic() < until:
        time.sleep(0.2)
    os.kill(worker, signal.SIGCONT)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("kind", "lost"),
    [("ddp", (1, 2)), *(pytest.param(kind, (1,), marks=pytest.mark.long) for kind in ("zero3", "fsdp"))],
)
def test_nodes_that_are_lost_one_after_the_other_are_let_in_when_they_are_back(
    bert: Path, texts: Path, whole: Path, tmp_path: Path, kind: str, lost: tuple[int, ...]
) -> None:
    count = len(lost) + 1
    cluster = Cluster(bert, texts, tmp_path / "out", *LONG, *PATIENT, "--strategy.kind", kind, nodes=count)
    nodes = [cluster.node(index) for index in range(count)]
    assert nodes[0].wait_for(lambda: nodes[0].step() >= 4)
    for index in lost:
        nodes[index].kill()
        assert nodes[0].wait_for(taking_part(nodes[0], count - index))
    nodes[1:] = [cluster.node(index) for index in lost]
    hold_until_there(cluster, nodes[0], lost)
    assert nodes[0].wait_for(taking_part(nodes[0], count)), "the run was over before they were back"
    for node in nodes:
        said_at_the_end(node)
    assert agree(cluster.output, whole)
    assert read_attempts(cluster.output).spent == 0


@pytest.mark.matrix
def test_node_0_is_waited_for_also_where_others_are_missing(
    bert: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *LONG, *PATIENT, nodes=3)
    nodes = [cluster.node(index) for index in range(3)]
    assert nodes[0].wait_for(lambda: nodes[0].step() >= 4)
    nodes[1].kill()
    assert nodes[0].wait_for(taking_part(nodes[0], 2))
    nodes[0].kill()
    nodes[0] = cluster.node(0)
    said = [said_at_the_end(nodes[index]) for index in (0, 2)]
    assert "goes on with 2 of 3 nodes, without node 1" in said[0]
    assert "lost node 0 (machine-0); starting again" in said[1]
    assert agree(cluster.output, whole)


def test_more_nodes_than_there_are_cannot_be_required(
    bert: Path, texts: Path, tmp_path: Path, run_command: Callable[..., object]
) -> None:
    done = run_command(*train(bert, texts, tmp_path / "out", 1, *RUN, "--elastic.min_nodes", "2"))
    assert done.returncode == 64  # type: ignore[attr-defined]
    assert "elastic.min_nodes is 2 but the run has 1 node; lower it" in done.stderr  # type: ignore[attr-defined]


FAILED = FailureReport(138, "it said nothing for 10 s", follows=True)


def spent(nodes: list[int], before: list[int], failure: FailureReport | None = FAILED) -> int:
    """Restarts that an attempt has spent which follows another at the same checkpoint. before, nodes: who took part."""
    begun = following(Attempts(checkpoint=5), 5, nodes=before)
    return following(ended(begun, failure, 7), 5, nodes=nodes).spent


def test_to_go_on_with_fewer_nodes_costs_no_restart() -> None:
    assert spent([0, 1], before=[0, 1, 2]) == 0
    assert spent([0, 2], before=[0, 1]) == 1
    assert spent([0, 1, 2], before=[0, 1, 2]) == 1
    assert spent([0, 1, 2], before=[0, 1]) == 1
    assert spent([0, 1, 2], before=[0, 1], failure=None) == 0
    assert spent([], before=[0, 1]) == 1, "by another launcher"


def test_a_failure_of_its_own_is_remembered_also_where_fewer_go_on() -> None:
    begun = following(Attempts(checkpoint=5), 5, nodes=[0, 1])
    after = following(ended(begun, FailureReport(137, "out of memory"), 7), 5, nodes=[0])
    assert after.failures == [FailedAttempt(7, "out of memory")]
