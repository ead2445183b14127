"""A bad machine is named before training: what is wrong ends the attempt, what is slow does not."""

import socket
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from distrain_trainer.errors import BadNode, FailureReport, is_of_a_machine
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.parallel.node_check import Measured, check_nodes, partner, slow_ones, try_copy, try_product
from distrain_trainer.parallel.node_check import wrong_result as wrong

CPU = torch.device("cpu")


@pytest.mark.parametrize("nodes", range(2, 13))
def test_every_pair_of_nodes_meets_once_and_no_node_twice_in_a_round(nodes: int) -> None:
    rounds = [{node: partner(node, number, nodes) for node in range(nodes)} for number in range(nodes - 1 + nodes % 2)]
    met = [frozenset((node, other)) for found in rounds for node, other in found.items() if other is not None]
    assert all(found[other] == node for found in rounds for node, other in found.items() if other is not None)
    assert {tuple(sorted(pair)) for pair in met} == set(combinations(range(nodes), 2))
    assert len(met) == 2 * len(set(met))


def test_a_device_that_computes_and_copies_right_passes() -> None:
    assert try_product(CPU)[1] and try_copy(CPU)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_exact_in_every_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda left, right: matmul(left.to(dtype), right.to(dtype)))
    assert try_product(CPU)[1]


def test_one_wrong_bit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, copy = torch.matmul, torch.Tensor.to

    def wrong_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        product = matmul(left, right)
        product[7, 300] += 1
        return product

    def wrong_copy(tensor: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        copied: torch.Tensor = copy(tensor, *arguments, **options)  # type: ignore[call-overload]
        copied[-1] ^= 1
        return copied

    with monkeypatch.context() as patch:
        patch.setattr(torch, "matmul", wrong_product)
        assert not try_product(CPU)[1]
        with pytest.raises(
            BadNode, match=r"^node 0 \(gpu-a\) is broken: process 0 has computed a wrong product of matri"
        ):
            check_nodes(ProcessRank(0, 1, 0, 1), CPU, "node 0 (gpu-a)", print)
    monkeypatch.setattr(torch.Tensor, "to", wrong_copy)
    assert not try_copy(CPU)[1]


EVEN = [Measured(f"node {rank // 2}", 0.010 + rank / 1e4, 0.020) for rank in range(8)]
"""Four nodes of two processes."""


def between(measured: list[Measured], seconds: dict[tuple[int, int], float]) -> list[Measured]:
    """The same with what the first process of each node has measured of its pairs, 0.1 s where nothing else is said."""
    found = list(measured)
    for node in range(len(found) // 2):
        others = {other: seconds.get((min(node, other), max(node, other)), 0.1) for other in range(4) if other != node}
        found[2 * node] = replace(found[2 * node], pairs=others)
    return found


def test_nobody_is_named_where_all_are_alike() -> None:
    assert list(slow_ones(between(EVEN, {}), 2)) == []
    assert wrong(EVEN, 2) is None
    assert list(slow_ones([Measured("node 0", 0.1, 0.1)], 1)) == []


def test_a_slow_process_is_named_with_its_node_and_how_slow_it_is() -> None:
    measured = between(EVEN, {})
    measured[5] = replace(measured[5], multiply=0.0404)
    measured[2] = replace(measured[2], copy=0.050)
    found = list(slow_ones(measured, 2))
    assert [line.partition(";")[0] for line in found] == [
        "process 5 on node 2 multiplies matrices 3.9 x as slowly as the median",
        "process 2 on node 1 copies memory 2.5 x as slowly as the median",
    ]


def test_a_slow_node_is_told_from_a_slow_way_between_two() -> None:
    found = list(slow_ones(between(EVEN, {(0, 3): 0.5, (1, 3): 0.5, (2, 3): 0.4}), 2))
    assert [line.partition(";")[0] for line in found] == ["node 3 exchanges numbers 4.0 x as slowly as the median node"]
    found = list(slow_ones(between(EVEN, {(1, 2): 0.3}), 2))
    assert [line.partition(";")[0] for line in found] == [
        "node 1 and node 2 exchange numbers 3.0 x as slowly as the median pair"
    ]


def test_of_two_that_disagree_both_are_named() -> None:
    nodes = [Measured("node 0", 0.1, 0.1, wrong_pairs=(1,)), Measured("node 1", 0.1, 0.1), Measured("node 2", 0.1, 0.1)]
    assert (wrong(nodes, 1) or "").startswith("node 0 or node 1 is broken: sums of numbers")


def test_only_what_is_a_machines_fault_has_the_machines_checked() -> None:
    assert is_of_a_machine(FailureReport.of(BadNode("x")))
    assert not is_of_a_machine(FailureReport(138, "lost node 1", follows=True))
    assert not is_of_a_machine(FailureReport(138, "the Hub answered 503", passes=True))
    assert not any(is_of_a_machine(FailureReport(code, "x")) for code in (64, 70, 137, 143))


THREE = """
import os, sys, time
from distrain_trainer.parallel import connection, node_check
from distrain_trainer.parallel.collectives import ProcessRank
import torch
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1], "WORLD_SIZE": "3"}
rank = next((rank for rank in (1, 2) if not os.fork()), 0)
os.environ["RANK"] = str(rank)
process = ProcessRank(rank, 3, 0, 1)
connection.connect(process)
receive = node_check.dist.irecv
if rank == 2 and sys.argv[2] == "slow":
    node_check.dist.irecv = lambda *a: (time.sleep(0.5), receive(*a))[1]
if rank == 1 and sys.argv[2] == "wrong":
    send = node_check.dist.isend
    node_check.dist.isend = lambda tensor, peer: send(tensor + 1, peer)
try:
    node_check.check_nodes(process, torch.device("cpu"), f"node {rank}", print if rank == 0 else lambda text: None)
except node_check.BadNode as error:
    print(rank, error)
if rank == 0:
    sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
"""
"""Three nodes of one process each, of which one is slow or says wrong numbers."""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("slow", "node 2 exchanges numbers "),
        ("wrong", "node 1 is broken: sums of numbers from other nodes are wrong; "),
    ],
)
def test_three_nodes_find_the_one_that_is_not_like_the_others(fault: str, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    command = [sys.executable, "-c", THREE, port, fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
