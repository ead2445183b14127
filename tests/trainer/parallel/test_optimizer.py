"""What the optimizers are made of, and what decays."""

import pytest
import torch

from distrain_trainer.parallel.optimizer import build_optimizer
from distrain_trainer.settings.sections import Optimizer


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(model, Optimizer(name=name, weight_decay=0.5))
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[model[0].weight] == 0.5
    assert [decays[p] for p in (model[0].bias, model[1].weight, model[1].bias)] == [0, 0, 0]
