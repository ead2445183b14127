"""The router loss of a model of experts is the same on any number of processes, however micro-batches are dealt."""

import json
import shutil
from pathlib import Path

import pytest

import tiny
from cells import cell, launch
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.training.run import run
from runs import losses

STEPS = 4


@pytest.mark.parametrize(
    "kinds",
    [("ddp", "fsdp"), pytest.param(("zero1", "zero2", "zero3"), marks=pytest.mark.matrix)],
    ids=lambda kinds: " ".join(kinds),
)
def test_an_expert_model_trains_the_same_under_every_strategy_and_dealing(
    kinds: tuple[str, ...], few_texts: Path, tmp_path: Path
) -> None:
    mixtral = tiny.tiny_mixtral(tmp_path / "mixtral")
    options = {
        "task": "causal-lm",
        "batch__micro_batches": 3,
        "schedule__max_steps": STEPS,
        "optimizer__learning_rate": 1e-2,
    }
    free = shutil.copytree(mixtral, tmp_path / "free")
    config = json.loads((free / "config.json").read_text())
    (free / "config.json").write_text(json.dumps(config | {"router_aux_loss_coef": 0.0}))
    for model, name in ((mixtral, "alone"), (free, "without")):
        one = cell(model, few_texts, tmp_path / name, **options)
        run(read_settings(None, one["settings"]), resume=False)
    wanted, without = losses(tmp_path / "alone"), losses(tmp_path / "without")
    assert len(wanted) == STEPS
    # Routers that use their experts evenly cost 2 x 0.5, any others more.
    assert min(wanted[step] - without[step] for step in wanted) > 0.5
    launch(2, [cell(mixtral, few_texts, tmp_path / kind, strategy__kind=kind, **options) for kind in kinds], tmp_path)
    for kind in kinds:
        assert losses(tmp_path / kind) == pytest.approx(wanted, abs=1e-5), kind
