"""The plan: the same steps on any number of processes, within the limits, with little padding."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import calls_of
from distrain_trainer.data.plan import Plan, deal, plan_epoch

lengths_of_rows = st.lists(st.integers(1, 64), min_size=1, max_size=300).map(lambda x: np.asarray(x, np.int32))
samples_limit = st.none() | st.integers(1, 20)


def lognormal(rows: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).lognormal(np.log(70), 0.8, rows)
    return np.clip(drawn, 8, 512).astype(np.int32)


@given(lengths_of_rows, st.integers(0, 2**31 - 1), st.integers(0, 5), samples_limit, st.integers(1, 9))
def test_every_row_is_trained_on_once_an_epoch(
    lengths: np.ndarray, seed: int, epoch: int, samples: int | None, micro_batches: int
) -> None:
    planned = plan_epoch(lengths, seed, epoch, 64, samples, micro_batches)
    assert sorted(planned.rows) == list(range(len(lengths)))
    assert [row for i in range(len(planned)) for row in planned[i]] == list(planned.rows)


@given(lengths_of_rows, st.integers(0, 2**31 - 1), st.integers(64, 200), samples_limit)
def test_no_micro_batch_is_over_the_limits(lengths: np.ndarray, seed: int, tokens: int, samples: int | None) -> None:
    planned = plan_epoch(lengths, seed, 0, tokens, samples, 4)
    for i in range(len(planned)):
        rows = planned[i]
        assert len(rows) * lengths[rows].max() == planned.costs[i] <= tokens
        assert len(rows) <= (samples or len(lengths))


@given(lengths_of_rows, st.integers(1, 9), st.integers(1, 9))
def test_a_step_is_the_same_however_it_is_dealt(lengths: np.ndarray, micro_batches: int, world: int) -> None:
    plan = Plan(lengths, 7, 64, None, micro_batches, epochs=2)
    for number in range(plan.steps):
        step = plan.step(number)
        hands = deal(step.costs, world, plan.slots(world))
        assert sorted(i for hand in hands for i in hand) == list(range(len(step.costs)))
        assert all(len(hand) <= plan.slots(world) for hand in hands)


@given(lengths_of_rows, st.integers(1, 9), st.integers(1, 3))
def test_the_steps_of_an_epoch_hold_all_of_it(lengths: np.ndarray, micro_batches: int, epochs: int) -> None:
    plan = Plan(lengths, 7, 64, None, micro_batches, epochs)
    seen = [(step.epoch, row) for step in map(plan.step, range(plan.steps)) for row in step.rows]
    assert sorted(seen) == [(epoch, row) for epoch in range(epochs) for row in range(len(lengths))]
    assert [done for done in range(1, plan.steps + 1) if plan.ends_epoch(done)] == list(plan.ends)


@given(lengths_of_rows, st.integers(1, 9), st.data())
def test_any_step_is_found_without_the_ones_before(
    lengths: np.ndarray, micro_batches: int, data: st.DataObject
) -> None:
    plan = Plan(lengths, 7, 64, None, micro_batches, epochs=3)
    in_order = [plan.step(number).rows.tolist() for number in range(plan.steps)]
    number = data.draw(st.integers(0, plan.steps - 1))
    assert Plan(lengths, 7, 64, None, micro_batches, epochs=3).step(number).rows.tolist() == in_order[number]


@given(lengths_of_rows, st.integers(1, 50))
def test_max_steps_is_exact_and_starts_new_epochs_as_needed(lengths: np.ndarray, max_steps: int) -> None:
    plan = Plan(lengths, 7, 64, None, 2, epochs=1, max_steps=max_steps)
    assert plan.steps == max_steps
    assert plan.step(max_steps - 1).indices


@given(lengths_of_rows, st.integers(1, 9), st.integers(1, 40).map(lambda tenths: tenths / 10))
def test_a_fraction_of_an_epoch_cuts_the_plan_there(lengths: np.ndarray, micro_batches: int, epochs: float) -> None:
    plan, whole = (Plan(lengths, 7, 64, None, micro_batches, count) for count in (epochs, 4))
    assert epochs <= plan.epochs_done(plan.steps) + 1e-9
    assert plan.epochs_done(plan.steps - 1) < epochs, "not a step more than that"
    assert plan.ends_epoch(plan.steps)
    for number in range(plan.steps):
        assert plan.step(number).rows.tolist() == whole.step(number).rows.tolist()


@given(lengths_of_rows)
def test_a_longer_schedule_begins_with_the_same_steps(lengths: np.ndarray) -> None:
    short, long = (Plan(lengths, 7, 64, None, 2, epochs) for epochs in (1, 3))
    for number in range(short.steps):
        assert short.step(number).rows.tolist() == long.step(number).rows.tolist()


def test_epochs_and_seeds_differ_in_order() -> None:
    lengths = lognormal(500)
    orders = [plan_epoch(lengths, s, e, 2048, None, 4).rows.tolist() for s, e in [(1, 0), (1, 1), (2, 0)]]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 8), (4, 16), (8, 32), (64, 256)])
@pytest.mark.parametrize("tokens", [3 * 512, 8 * 512])
def test_padding_and_imbalance_stay_small_on_uneven_texts(world: int, micro_batches: int, tokens: int) -> None:
    plan = Plan(lognormal(60_000), 42, tokens, None, micro_batches, epochs=1)
    assert 0 < plan.padding() <= 0.05
    assert 1.0 <= plan.imbalance(world) <= 1.07


def test_long_texts_come_at_no_particular_time() -> None:
    lengths = lognormal(60_000)
    planned = plan_epoch(lengths, 3, 0, 2048, None, 4)
    longest = [lengths[planned[i]].max() for i in range(len(planned))]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.1


def assigned_by_looking_at_all(costs: np.ndarray, world: int, slots: int) -> list[list[int]]:
    """The rule as it is written down: costliest first, each to the least-loaded process with a free slot."""
    assignments: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for index in np.argsort(-costs, kind="stable"):
        process = min((p for p in range(world) if len(assignments[p]) < slots), key=lambda p: loads[p])
        assignments[process].append(int(index))
        loads[process] += int(costs[index])
    return assignments


@given(st.lists(st.integers(0, 12), max_size=80), st.integers(1, 12), st.integers(0, 3))
def test_each_micro_batch_goes_to_the_least_loaded_process_with_a_free_slot(
    costs: list[int], world: int, spare: int
) -> None:
    slots = -(-len(costs) // world) + spare
    given_out = np.asarray(costs, np.int64)
    assert deal(given_out, world, slots) == assigned_by_looking_at_all(given_out, world, slots)


def test_dealing_twice_the_micro_batches_to_twice_the_processes_is_about_twice_the_work() -> None:
    costs = np.random.default_rng(0).integers(1, 4096, 1024)
    small, large = (calls_of(partial(deal, costs[:n], n // 4, 4)) for n in (512, 1024))
    assert large < 2.5 * small


def test_the_imbalance_is_worked_out_once() -> None:
    plan = Plan(lognormal(2_000), 42, 1536, None, 16, epochs=1)
    first, second = (calls_of(lambda: plan.imbalance(4)) for _ in range(2))
    assert second < first / 100
    assert plan.imbalance(4) != plan.imbalance(8)
