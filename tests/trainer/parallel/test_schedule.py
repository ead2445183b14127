"""The learning rate as a function of the step, and of the depth of a parameter."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, get_wsd_schedule
from transformers.optimization import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

import tiny
from distrain_trainer.errors import SettingsError
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.groups import groups_of, scales_of
from distrain_trainer.parallel.schedule import learning_rate
from distrain_trainer.parallel.state import set_learning_rate
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Optimizer, Schedule

STEPS, WARMUP = 40, 5
KINDS = ["linear", "cosine", "constant", "wsd"]


@given(st.sampled_from(KINDS), st.integers(2, 500), st.floats(0, 1, allow_subnormal=False), st.floats(0, 0.05))
def test_the_rate_rises_to_its_height_and_never_leaves_its_bounds(
    kind: str, steps: int, fraction: float, least: float
) -> None:
    schedule = Schedule(kind=kind, warmup_fraction=fraction, min_learning_rate=least)
    rates = [learning_rate(schedule, 0.1, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    assert max(rates) == pytest.approx(0.1)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates[top:]) >= least


def test_known_values() -> None:
    linear = Schedule(kind="linear", warmup_steps=2)
    assert [learning_rate(linear, 1.0, step, 6) for step in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(Schedule(kind="cosine"), 1.0, 5, 10) == pytest.approx(0.5)
    root = Schedule(kind="wsd", decay_steps=4, decay="sqrt")
    assert [learning_rate(root, 1.0, step, 10) for step in (6, 7, 9)] == [1.0, 0.5, 1 - 0.75**0.5]


def wsd(decay: str, optimizer: Any) -> Any:
    return get_wsd_schedule(
        optimizer, WARMUP, num_decay_steps=8, num_training_steps=STEPS, decay_type=decay, min_lr_ratio=0.1
    )


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"kind": "linear"}, partial(get_linear_schedule_with_warmup, num_warmup_steps=WARMUP)),
        (
            {"kind": "cosine", "min_learning_rate": 0.01},
            partial(get_cosine_with_min_lr_schedule_with_warmup, num_warmup_steps=WARMUP, min_lr_rate=0.1),
        ),
        ({"kind": "wsd", "decay_steps": 8, "min_learning_rate": 0.01}, partial(wsd, "linear")),
        ({"kind": "wsd", "decay_fraction": 0.2, "decay": "cosine", "min_learning_rate": 0.01}, partial(wsd, "cosine")),
        ({"kind": "wsd", "decay_steps": 8, "decay": "sqrt", "min_learning_rate": 0.01}, partial(wsd, "1-sqrt")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_after_the_warm_up_the_rate_is_that_of_transformers(settings: dict[str, Any], reference: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    more = {} if reference.func is wsd else {"num_training_steps": STEPS}
    scheduler = reference(optimizer=optimizer, **more)
    theirs = []
    for _ in range(STEPS):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    schedule = Schedule(warmup_steps=WARMUP, **settings)
    ours = [learning_rate(schedule, 0.1, step, STEPS) for step in range(STEPS)]
    assert ours[WARMUP:] == pytest.approx(theirs[WARMUP:])


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"kind": "constant", "min_learning_rate": 1e-6}, "constant, which never falls"),
        ({"min_learning_rate": 1e-3}, "from where it falls"),
        ({"decay_steps": 3}, "for wsd but schedule.kind is linear"),
        ({"kind": "wsd", "decay_steps": 3, "decay_fraction": 0.3}, "keep one of them"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(schedule: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Settings(schedule=Schedule(**schedule))


def test_each_block_learns_slower_than_the_one_above_it(tmp_path: Path) -> None:
    """As timm and BEiT do: the head 1, block i of n decay ** (n - i), the embeddings decay ** (n + 1)."""
    model = SummedLoss(AutoModelForSequenceClassification.from_pretrained(tiny.tiny_bert(tmp_path)))
    decay, blocks = 0.5, 2
    groups = groups_of(model, Optimizer(layer_decay=decay, weight_decay=0.1))
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.2)
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name, seen = names[parameter], seen + 1
            power = 0
            if "embeddings" in name:
                power = blocks + 1
            elif ".layer." in name:
                power = blocks - int(name.split(".layer.")[1].split(".")[0])
            assert group["lr"] == pytest.approx(0.2 * decay**power), name
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0), name
    assert seen == len(names)
    assert len({group["scale"] for group in groups}) == blocks + 2


def test_layer_decay_is_refused_for_two_stacks_of_blocks() -> None:
    names = [f"{half}.block.{number}.weight" for half in ("encoder", "decoder") for number in range(3)]
    assert set(scales_of(names, 1.0).values()) == {1.0}
    with pytest.raises(SettingsError, match=r"encoder\.block\., decoder\.block\."):
        scales_of(names, 0.9)
