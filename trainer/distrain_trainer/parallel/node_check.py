"""Finds a bad machine before it costs an hour: each process multiplies matrices and copies memory on its device, and
each pair of nodes adds up numbers.

The numbers are small integers, which every device and every precision adds up exactly, so that a result is right or
wrong. What is merely slow is named, and the run goes on. Pairs of nodes talk over the hosts' network, also where GPUs
have one of their own, whose time the first all-reduce tells.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import TypeVar

import torch
import torch.distributed as dist

from distrain_trainer.errors import BadNode
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.collectives import ProcessRank

K = TypeVar("K")

ROUNDS = 5
"""Times that each thing is done; the shortest counts, since other work can only make one longer."""
SLOW = 2.0
"""Times the median from which a process, a node or a pair of nodes is named."""
SIZE = {"cpu": 512, "cuda": 4096}
"""Rows and columns of the matrices."""
NONZERO = 128
"""Terms of each sum of a product, on average: up to 256 bf16 holds every integer."""
COPIED = {"cpu": 4 << 20, "cuda": 64 << 20}
"""Bytes that are copied to the device and back."""
EXCHANGED = 4 << 20
"""Bytes that two nodes exchange."""
SECONDS_FOR_PAIRS = 3.0
"""After which no more pairs are tried: with many nodes they are not all of them."""


@dataclass(frozen=True)
class Measured:
    """What one process has measured. node: what its machine is called. multiply, copy: seconds. wrong: what its device
    got wrong, in words. pairs: by the number of the other node, seconds of an exchange with it. wrong_pairs: those
    whose sum was wrong."""

    node: str
    multiply: float
    copy: float
    wrong: tuple[str, ...] = ()
    pairs: Mapping[int, float] = field(default_factory=dict)
    wrong_pairs: tuple[int, ...] = ()


def check_nodes(process: ProcessRank, device: torch.device, node: str, warn: Callable[[str], None]) -> None:
    """Tries this machine and its network together with all others. On all processes.

    node: what this machine is called. warn: takes sentences about what is slow. Raises BadNode, everywhere the same,
    where a result is wrong.
    """
    multiply, right_product = try_product(device)
    copy, right_copy = try_copy(device)
    wrong = ["a wrong product of matrices"] * (not right_product) + ["a wrong copy of memory"] * (not right_copy)
    tried = list(try_pairs(process))
    pairs = {other: seconds for other, seconds, _ in tried}
    wrong_pairs = tuple(other for other, _, right in tried if not right)
    measured = collectives.gather(Measured(node, multiply, copy, tuple(wrong), pairs, wrong_pairs))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if sentence := wrong_result(measured, process.local_world):
        raise BadNode(sentence)
    for sentence in slow_ones(measured, process.local_world):
        warn(sentence)


def wrong_result(measured: list[Measured], local_world: int) -> str | None:
    """A sentence about the machine that has computed something wrong, None where all is right. measured: by rank."""
    advice = "keep runs off that machine (avoidNodes of the chart) until its hardware has been tested"
    for rank, found in enumerate(measured):
        if found.wrong:
            return f"{found.node} is broken: process {rank} has computed {' and '.join(found.wrong)}; {advice}"
    nodes = measured[::local_world]
    pairs = {frozenset((node, other)) for node, found in enumerate(nodes) for other in found.wrong_pairs}
    times = Counter(node for pair in pairs for node in pair)
    suspects = [nodes[node].node for node in sorted(times) if times[node] == max(times.values())]
    if suspects:
        return f"{' or '.join(suspects)} is broken: sums of numbers from other nodes are wrong; {advice}"
    return None


def slow_ones(measured: list[Measured], local_world: int) -> Iterator[str]:
    """Sentences about processes, nodes and pairs of nodes that are much slower than the median. measured: by rank."""
    advice = "all will wait for it; look for a throttled device or other load there"
    for what, seconds in (
        ("multiplies matrices", [found.multiply for found in measured]),
        ("copies memory", [found.copy for found in measured]),
    ):
        for rank, ratio in over_median(dict(enumerate(seconds))):
            yield f"process {rank} on {measured[rank].node} {what} {ratio:.1f} x as slowly as the median; {advice}"
    nodes = [found.node for found in measured[::local_world]]
    pairs = {
        (one, other): seconds
        for one, found in enumerate(measured[::local_world])
        for other, seconds in found.pairs.items()
        if one < other
    }
    best = {
        node: min(seconds) for node in range(len(nodes)) if (seconds := [pairs[pair] for pair in pairs if node in pair])
    }
    slow = dict(over_median(best))
    for node, ratio in slow.items():
        yield f"{nodes[node]} exchanges numbers {ratio:.1f} x as slowly as the median node; {advice}"
    for (one, other), ratio in over_median(pairs):
        if one not in slow and other not in slow:
            yield (
                f"{nodes[one]} and {nodes[other]} exchange numbers {ratio:.1f} x as slowly as the median pair; look at "
                "the network between these two"
            )


def over_median(seconds: Mapping[K, float]) -> list[tuple[K, float]]:
    """What takes over SLOW times the median, and how many times."""
    usual = median_low(seconds.values()) if seconds else 0.0
    return [(key, value / usual) for key, value in seconds.items() if value > SLOW * usual > 0]


def try_product(device: torch.device) -> tuple[float, bool]:
    """Seconds of a product of two matrices on a device, and whether it is right.

    Of a product AB a vector tells: (AB)x is A(Bx), which is computed on the host.
    """
    size, numbers = SIZE[device.type], torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    some = torch.rand(size, size, generator=numbers) < NONZERO / size
    left = some * signs((size, size), numbers)
    right, vector = signs((size, size), numbers), signs((size,), numbers).double()
    expected = left.double() @ (right.double() @ vector)
    on_device = left.to(device, dtype), right.to(device, dtype)
    taken, right_ones = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        product = torch.matmul(*on_device)
        product[0, 0].item()  # waits for the device
        taken.append(time.perf_counter() - began)
        right_ones += torch.equal(product.cpu().double() @ vector, expected)
    return min(taken), right_ones == ROUNDS


def signs(shape: tuple[int, ...], numbers: torch.Generator) -> torch.Tensor:
    """Numbers that are 1 or -1, by chance."""
    return torch.randint(0, 2, shape, generator=numbers).float() * 2 - 1


def try_copy(device: torch.device) -> tuple[float, bool]:
    """Seconds of a copy to a device and back, and whether it is right."""
    content = torch.arange(COPIED[device.type] // 4, dtype=torch.int32)
    taken, right_ones = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        back = content.to(device, copy=True).cpu()
        taken.append(time.perf_counter() - began)
        right_ones += torch.equal(content, back)
    return min(taken), right_ones == ROUNDS


def try_pairs(process: ProcessRank) -> Iterator[tuple[int, float, bool]]:
    """Number of another node, seconds of an exchange with it, and whether what came is right. On all processes.

    In each round every node has one partner, and after all rounds each has met each other.
    """
    nodes, node = process.nodes_here, process.place
    until = time.monotonic() + SECONDS_FOR_PAIRS
    for number in range(nodes - 1 + nodes % 2):
        if collectives.from_main(time.monotonic() > until):
            return
        other = partner(node, number, nodes)
        if process.local_rank == 0 and other is not None:
            yield other, *exchange(process.rank, other * process.local_world)


def partner(node: int, number: int, nodes: int) -> int | None:
    """The node that a node meets in round `number` of a round-robin; None where it pauses, as one does of an odd
    number of nodes."""
    players = nodes + nodes % 2
    last = players - 1  # it stays in its place while the others go round
    if node == last:
        other = number * (players // 2) % last
    else:
        other = (number - node) % last
        other = last if other == node else other
    return other if other < nodes else None


def exchange(rank: int, peer: int) -> tuple[float, bool]:
    """Seconds in which two processes add up each other's numbers, and whether the sum is right."""
    size = EXCHANGED // 4
    mine = torch.arange(size, dtype=torch.int32) + rank
    theirs, taken = torch.empty(size, dtype=torch.int32), []
    for _ in range(1 + ROUNDS // 2):
        began = time.perf_counter()
        for request in (dist.isend(mine, peer), dist.irecv(theirs, peer)):
            assert request is not None
            request.wait()
        total = mine + theirs
        taken.append(time.perf_counter() - began)
    return min(taken), torch.equal(total, 2 * torch.arange(size, dtype=torch.int32) + rank + peer)
