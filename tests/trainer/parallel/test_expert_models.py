"""The router loss of a model of experts is the same on any number of processes, however micro-batches are dealt."""

from pathlib import Path

import pytest

import tiny
from cells import STRATEGIES, cell, launch
from runs import losses

STEPS = 8


def test_an_expert_model_trains_the_same_under_every_strategy_and_dealing(texts: Path, tmp_path: Path) -> None:
    mixtral = tiny.tiny_mixtral(tmp_path / "mixtral")
    options = {
        "task": "causal-lm",
        "batch__micro_batches": 3,
        "schedule__max_steps": STEPS,
        "optimizer__learning_rate": 1e-2,
    }
    alone = cell(mixtral, texts, tmp_path / "alone", **options)
    dealt = [cell(mixtral, texts, tmp_path / kind, strategy__kind=kind, **options) for kind in STRATEGIES]
    launch(1, [alone], tmp_path)
    launch(2, dealt, tmp_path)
    wanted = losses(tmp_path / "alone")
    assert len(wanted) == STEPS
    for kind in STRATEGIES:
        assert losses(tmp_path / kind) == pytest.approx(wanted, abs=1e-5), kind
