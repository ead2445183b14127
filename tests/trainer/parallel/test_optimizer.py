"""What the optimizers are made of, what decays, what they remember, and the average of what they update."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel

import tiny
from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.optimizer_state import is_hidden_matrix, state_bytes
from distrain_trainer.models.load import trained_shapes
from distrain_trainer.parallel.average import as_saved, as_trained, average_of
from distrain_trainer.parallel.optimizer import build_optimizer, load_state
from distrain_trainer.parallel.state import local_tensors, optimizer_part, set_learning_rate
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Optimizer
from distrain_trainer.training.checks import check_device

NAMES = ["adamw", "sgd", "adafactor", "muon"]
RATE = 1e-2


def loss_of(model: PreTrainedModel, step: int) -> torch.Tensor:
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(step))
    loss: torch.Tensor = model(ids, labels=ids).loss
    return loss


def train(model: PreTrainedModel, optimizer: torch.optim.Optimizer, steps: range, after: Callable[[], None]) -> None:
    for step in steps:
        torch.autograd.backward(loss_of(model, step))
        set_learning_rate(optimizer, RATE / (step + 1))
        optimizer.step()
        optimizer.zero_grad()
        after()


def nothing() -> None:
    pass


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_only_matrices_decay(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = build_optimizer(model, Optimizer(name=name, weight_decay=0.5))
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[model[0].weight] == 0.5
    assert [decays[p] for p in (model[0].bias, model[1].weight, model[1].bias)] == [0, 0, 0]


def test_muon_updates_the_matrices_of_blocks_and_adamw_all_else() -> None:
    """Both as torch has them, with one learning rate; also where Accelerate has loaded the state anew."""
    ours, theirs = tiny.decoder("llama"), tiny.decoder("llama")
    optimizer = build_optimizer(ours, Optimizer(name="muon", learning_rate=RATE, weight_decay=0.1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    inside = {name: p for name, p in theirs.named_parameters() if ".layers." in name and p.ndim == 2}
    assert inside and all(is_hidden_matrix(name, tuple(p.shape)) for name, p in inside.items())
    outside = {name: p for name, p in theirs.named_parameters() if name not in inside}
    muon: Any = torch.optim.Muon(inside.values(), lr=RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in outside.values() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in outside.values() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=RATE,
    )
    train(ours, optimizer, range(3), nothing)
    for step in range(3):
        torch.autograd.backward(loss_of(theirs, step))
        for one in (muon, adamw):
            for group in one.param_groups:
                group["lr"] = RATE / (step + 1)
            one.step()
            one.zero_grad()
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name)), name
    with pytest.raises(SettingsError, match="trains no matrices of numbered blocks"):
        build_optimizer(torch.nn.LayerNorm(4), Optimizer(name="muon"))


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_and_the_average_go_on_from_what_was_saved_bit_for_bit(name: str) -> None:
    settings = Settings(
        optimizer=Optimizer(name=name, learning_rate=RATE, momentum=0.9 if name == "sgd" else None), ema={"decay": 0.7}
    )
    found = []
    for split in (False, True):
        model = tiny.decoder("llama")
        optimizer = build_optimizer(model, settings.optimizer)
        average = average_of(settings, optimizer, nothing)
        train(model, optimizer, range(3), average.update)
        if split:
            saved = {n: copy.deepcopy(as_saved(local_tensors(optimizer, p))) for n, p in model.named_parameters()}
            model = tiny.decoder("llama")
            optimizer = build_optimizer(model, settings.optimizer)
            average = average_of(settings, optimizer, nothing)
            for n, parameter in model.named_parameters():
                tensors = as_trained(saved[n])
                parameter.data.copy_(tensors["weight"])
                load_state(optimizer, parameter, optimizer_part(tensors))
        train(model, optimizer, range(3, 5), average.update)
        found.append({n: as_saved(local_tensors(optimizer, p)) for n, p in model.named_parameters()})
    for n, tensors in found[0].items():
        assert tensors.keys() == found[1][n].keys()
        assert all(torch.equal(tensors[key], found[1][n][key]) for key in tensors), n


def test_the_average_is_that_of_torch_and_takes_the_weights_place_for_a_while() -> None:
    settings = Settings(ema={"decay": 0.7})
    model = tiny.decoder("llama")
    optimizer = build_optimizer(model, settings.optimizer)
    average = average_of(settings, optimizer, nothing)
    torchs: Any = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))  # type: ignore[no-untyped-call]

    def update() -> None:
        average.update()
        torchs.update_parameters(model)

    train(model, optimizer, range(4), update)
    trained = copy.deepcopy(model.state_dict())
    with torch.no_grad(), average.in_use():
        assert torch.equal(loss_of(model, 9), loss_of(torchs.module, 9))
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", [*NAMES, "adamw_8bit"])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_memory_plan_knows_what_is_remembered(name: str, decay: float | None) -> None:
    settings = Settings(
        optimizer=Optimizer(name=name, learning_rate=RATE, momentum=0.9 if name == "sgd" else None),
        ema={"decay": decay},
    )
    model = tiny.decoder("llama", vocabulary=4096)
    optimizer = build_optimizer(model, settings.optimizer)
    train(model, optimizer, range(1), average_of(settings, optimizer, nothing).update)
    lasting = [
        tensor
        for parameter in model.parameters()
        for key, tensor in optimizer_part(local_tensors(optimizer, parameter)).items()
        if key != "step" and not key.startswith("qmap")
    ]
    # bitsandbytes keeps small matrices' state in fp32
    error = 0.25 if name == "adamw_8bit" else 0.001
    assert sum(t.nbytes for t in lasting) == pytest.approx(state_bytes(settings, trained_shapes(model)), rel=error)


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("name", ["adafactor", "muon", "adamw_8bit", "paged_adamw_8bit"])
def test_optimizers_that_need_whole_tensors_are_refused_where_they_are_cut(name: str, kind: str) -> None:
    with pytest.raises(ValidationError, match=f"optimizer.name {name} .*{kind}"):
        Settings.model_validate({"optimizer": {"name": name}, "strategy": {"kind": kind}})


def test_pages_are_refused_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError, match="use adamw_8bit"):
        check_device(Settings(optimizer=Optimizer(name="paged_adamw_8bit")))


def test_momentum_is_for_those_that_have_it() -> None:
    with pytest.raises(ValidationError, match=r"optimizer\.betas with adafactor"):
        Settings(optimizer=Optimizer(name="adafactor", momentum=0.9))
    assert math.isclose(Settings(optimizer=Optimizer(name="muon", momentum=0.9)).optimizer.momentum or 0, 0.9)
