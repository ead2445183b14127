"""Which rows make which step: a pure function in which the number of processes does not occur.

An epoch is planned as micro-batches of rows of like length, and each consecutive `micro_batches` of them is one
optimizer step. Only `deal` knows about processes: it spreads the micro-batches of a step over them and changes
nothing about the step. So a run makes the same steps on any number of processes, and a resume finds its place by
indexing.
"""

from dataclasses import dataclass
from heapq import heappop, heapreplace
from itertools import count
from math import ceil

import numpy as np

POOL_STEPS = 64
"""Rows are sorted by length within pools of this many steps: large enough for little padding, small enough that
what a step holds is still random."""


@dataclass(frozen=True)
class MicroBatches:
    """Rows cut into micro-batches.

    rows: int64 [rows], row numbers in micro-batch order, the longest row of each micro-batch first.
    starts: int64 [micro_batches + 1], where each micro-batch starts in `rows`.
    costs: int64 [micro_batches], padded tokens (rows x longest) of each.
    """

    rows: np.ndarray
    starts: np.ndarray
    costs: np.ndarray

    def __len__(self) -> int:
        return len(self.costs)

    def __getitem__(self, index: int) -> np.ndarray:
        """Row numbers of one micro-batch: int64 [rows]."""
        return self.rows[self.starts[index] : self.starts[index + 1]]


def cut(lengths: np.ndarray, rows: np.ndarray, tokens: int, samples: int | None) -> MicroBatches:
    """Sorts rows by length, longest first, and cuts greedily: rows x longest <= tokens, rows <= samples.

    lengths: int [all rows]; or [all rows, 2] where a row has two parts that are padded apart, so that the longest of
    either count.
    """
    if lengths.ndim == 2:
        return _cut_in_two(lengths, rows, tokens, samples)
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    starts, costs = [0], []
    while starts[-1] < len(rows):
        longest = int(lengths[rows[starts[-1]]])
        size = min(max(tokens // max(longest, 1), 1), samples or len(rows), len(rows) - starts[-1])
        starts.append(starts[-1] + size)
        costs.append(size * longest)
    return MicroBatches(rows, np.asarray(starts, np.int64), np.asarray(costs, np.int64))


def _cut_in_two(lengths: np.ndarray, rows: np.ndarray, tokens: int, samples: int | None) -> MicroBatches:
    """`cut` of rows with two parts: rows x (longest first part + longest second part) <= tokens."""
    rows = rows[np.lexsort((-lengths[rows, 0], -lengths[rows].sum(1)))]
    starts, costs = [0], []
    most = samples or len(rows)
    first, second, count = 0, 0, 0
    for place, (one, other) in enumerate(lengths[rows].tolist()):
        longest = max(first, one), max(second, other)
        if count and ((count + 1) * sum(longest) > tokens or count == most):
            starts.append(place)
            costs.append(count * (first + second))
            longest, count = (one, other), 0
        (first, second), count = longest, count + 1
    if count:
        starts.append(len(rows))
        costs.append(count * (first + second))
    return MicroBatches(rows, np.asarray(starts, np.int64), np.asarray(costs, np.int64))


def plan_epoch(
    lengths: np.ndarray, seed: int, epoch: int, tokens: int, samples: int | None, micro_batches: int
) -> MicroBatches:
    """The micro-batches of one epoch, in the order in which they are trained on.

    lengths: tokens of each row, int [rows], each at most `tokens`; or [rows, 2], of its two parts.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = generator.permutation(len(lengths))
    rows_a_micro_batch = min(samples or len(lengths), max(tokens / max(lengths.sum() / len(lengths), 1), 1))
    pool = min(POOL_STEPS * micro_batches * rows_a_micro_batch, len(lengths) / 4)
    if samples:  # whole micro-batches: a pool's rest would be a small one, whose rows weigh more
        size = ceil(pool / samples) * samples
        pools = [order[start : start + size] for start in range(0, len(order), size)]
    else:
        pools = np.array_split(order, max(ceil(len(lengths) / max(pool, 1)), 1))
    cuts = [cut(lengths, rows, tokens, samples) for rows in pools if len(rows)]
    pieces = [piece[i] for piece in cuts for i in range(len(piece))]
    costs = np.concatenate([piece.costs for piece in cuts])
    shuffled = generator.permutation(len(pieces))
    pieces = [pieces[i] for i in shuffled]
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return MicroBatches(np.concatenate(pieces), starts, costs[shuffled])


def deal(costs: np.ndarray, world: int, slots: int) -> list[list[int]]:
    """Spreads the micro-batches of one step: costliest first, each to the least-loaded process with a free slot.

    costs: int [n], n <= world x slots. Returns the assignments: for each process the indices of its micro-batches, at
    most `slots`; what is missing to `slots` is filled by the loader with empty micro-batches.
    """
    assignments: list[list[int]] = [[] for _ in range(world)]
    by_load = list(range(world))  # a heap of load x world + process: of equally loaded processes the first comes first
    order = np.argsort(-costs, kind="stable")
    for index, cost in zip(order.tolist(), costs[order].tolist(), strict=True):
        process = by_load[0] % world
        assignments[process].append(index)
        if len(assignments[process]) < slots:
            heapreplace(by_load, by_load[0] + cost * world)
        else:
            heappop(by_load)
    return assignments


@dataclass(frozen=True)
class Step:
    """One optimizer step: some neighbouring micro-batches of an epoch."""

    epoch: int
    planned: MicroBatches
    indices: range

    @property
    def costs(self) -> np.ndarray:
        """Padded tokens of each micro-batch."""
        return self.planned.costs[self.indices.start : self.indices.stop]

    @property
    def rows(self) -> np.ndarray:
        """Row numbers of the whole step."""
        starts = self.planned.starts
        return self.planned.rows[starts[self.indices.start] : starts[self.indices.stop]]


class Plan:
    """All steps of a run.

    lengths: tokens of each training row, int [rows]; or [rows, 2], of its two parts.
    tokens, samples, micro_batches: as in the settings' `batch`.
    epochs, max_steps: the run ends after this many epochs (with a fraction: the plan is cut there), or after exactly
    `max_steps` when that is given.
    filled: tokens of all rows without padding; None: the sum of `lengths`, which may count what pads one part of a row.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        seed: int,
        tokens: int,
        samples: int | None,
        micro_batches: int,
        epochs: float,
        max_steps: int | None = None,
        filled: int | None = None,
    ):
        self._filled = int(lengths.sum()) if filled is None else filled
        self.lengths, self.seed = lengths, seed
        self.tokens, self.samples, self.micro_batches = tokens, samples, micro_batches
        self._kept: tuple[int, MicroBatches] | None = None
        self._imbalance: dict[int, float] = {}
        ends: list[int] = []
        for epoch in count():
            ends.append((ends[-1] if ends else 0) + -(-len(self.epoch(epoch)) // micro_batches))
            if ends[-1] >= max_steps if max_steps else epoch + 1 >= epochs:
                break
        self.ends = np.asarray(ends)
        self.steps: int = max_steps or _steps_of(ends, epochs)

    def epoch(self, epoch: int) -> MicroBatches:
        """The micro-batches of an epoch; the one used last is kept."""
        if self._kept is None or self._kept[0] != epoch:
            args = (self.tokens, self.samples, self.micro_batches)
            self._kept = epoch, plan_epoch(self.lengths, self.seed, epoch, *args)
        return self._kept[1]

    def step(self, step: int) -> Step:
        """The step of number `step`, from 0; found by indexing, whatever came before."""
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        planned = self.epoch(epoch)
        start = (step - (int(self.ends[epoch - 1]) if epoch else 0)) * self.micro_batches
        return Step(epoch, planned, range(start, min(start + self.micro_batches, len(planned))))

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch, or the run, is over after `done` steps."""
        return done == self.steps or done in self.ends

    def epochs_done(self, done: int) -> float:
        """Epochs, and parts of one, that `done` steps are."""
        epoch = int(np.searchsorted(self.ends, done, side="right"))
        start = int(self.ends[epoch - 1]) if epoch else 0
        length = (int(self.ends[epoch]) if epoch < len(self.ends) else start + 1) - start
        return epoch + (done - start) / length

    def slots(self, world: int) -> int:
        """Forward passes of every process in every step: ceil(micro_batches / world)."""
        return -(-self.micro_batches // world)

    def padding(self) -> float:
        """Fraction of the first epoch's padded tokens that is padding."""
        return 1 - float(self._filled) / float(self.epoch(0).costs.sum())

    def imbalance(self, world: int) -> float:
        """Padded tokens of the slowest process over the mean of all, averaged over up to 200 steps.

        Worked out once for each `world`: with a thousand processes it takes about a second.
        """
        if world not in self._imbalance:
            ratios = []
            for number in range(min(self.steps, 200)):
                costs = self.step(number).costs
                loads = [costs[assigned].sum() for assigned in deal(costs, world, self.slots(world))]
                ratios.append(max(loads) / (sum(loads) / world))
            self._imbalance[world] = float(np.mean(ratios))
        return self._imbalance[world]


def _steps_of(ends: list[int], epochs: float) -> int:
    """Steps of that many epochs, a fraction of a step rounded up. ends: steps after each epoch, the last one whole."""
    start = ends[-2] if len(ends) > 1 else 0
    part = epochs - (len(ends) - 1)
    return start + ceil(round(part * (ends[-1] - start), 6))
