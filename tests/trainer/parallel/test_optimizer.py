"""The learning rate as a function of the step, and what decays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrain_trainer.parallel.optimizer import build_optimizer, learning_rate
from distrain_trainer.settings.sections import Optimizer, Schedule


@given(st.sampled_from(["linear", "cosine", "constant"]), st.integers(2, 500), st.floats(0, 1, allow_subnormal=False))
def test_the_rate_rises_to_its_height_and_never_leaves_its_bounds(kind: str, steps: int, fraction: float) -> None:
    schedule = Schedule(kind=kind, warmup_fraction=fraction)
    rates = [learning_rate(schedule, 0.1, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    assert max(rates) == pytest.approx(0.1)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_known_values() -> None:
    linear = Schedule(kind="linear", warmup_steps=2)
    assert [learning_rate(linear, 1.0, step, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(Schedule(kind="cosine"), 1.0, 5, 10) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(model, Optimizer(name=name, weight_decay=0.5))
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[model[0].weight] == 0.5
    assert [decays[p] for p in (model[0].bias, model[1].weight, model[1].bias)] == [0, 0, 0]
