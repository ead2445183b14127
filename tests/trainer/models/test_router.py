"""The loss of an expert model's routers is trained, as transformers computes it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MixtralConfig, MixtralForSequenceClassification

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.training.probes import choose_loss, choose_mask, probe, tell_router_loss

NO_ROWS = Rows(np.zeros(0, np.int32), np.zeros(1, np.int64))
CAUSAL = Settings.model_validate({"task": "causal-lm", "data": {"max_length": 48}})
COLLATOR = Collator(NO_ROWS, "causal-lm", 1, 0, -1, 97, 0.15, False)


def loss_and_gradients(module: SummedLoss, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss over the targets, and its gradients."""
    module.zero_grad()
    loss = module(**inputs)[0] / (inputs["labels"] != IGNORE_INDEX).sum()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in other[1].values())
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=0, atol=1e-6 * largest, msg=name)


def of_transformers(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """What the model's own loss gives, which is a mean over the targets."""
    model.zero_grad()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    targets = ids.masked_fill(mask == 0, IGNORE_INDEX)
    loss = model(input_ids=ids, attention_mask=mask, labels=targets, output_router_logits=True).loss
    loss.backward()
    return loss.item(), {f"model.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunks", [0, 4], ids=["whole", "chunked"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_loss_and_gradients_are_those_of_transformers(chunks: int, checkpointing: bool) -> None:
    model = tiny.decoder("mixtral")
    inputs = probe(CAUSAL, COLLATOR, packed=False)
    expected = of_transformers(model, inputs)
    module = SummedLoss(model).train()
    module.chunks = chunks
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(loss_and_gradients(module, inputs), expected)


def test_evaluation_gives_the_cross_entropy_alone() -> None:
    module = SummedLoss(tiny.decoder("mixtral"))
    inputs = probe(CAUSAL, COLLATOR, packed=False)
    with torch.no_grad():
        trained = module(**inputs)[0]
        module.eval()
        evaluated = module(**inputs)[0]
        module.router_weight = 0.0
        plain = module.train()(**inputs)[0]
    assert float(evaluated) == pytest.approx(float(plain), rel=1e-6) and float(trained) > 1.05 * float(plain)


def test_a_micro_batch_without_targets_adds_nothing() -> None:
    module = SummedLoss(tiny.decoder("mixtral"))
    module(**COLLATOR.empty())[0].backward()
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


def test_routers_keep_their_mask_which_tells_them_what_to_count() -> None:
    module = SummedLoss(tiny.decoder("mixtral"))
    choose_mask(CAUSAL, module, module, COLLATOR)
    assert module.needs_mask


@pytest.mark.parametrize("chosen", [2, 3])
def test_chunks_are_taken_only_where_they_give_the_models_own_router_loss(chosen: int) -> None:
    """A model that counts another number of experts per token than its configuration says is found out."""
    model: Any = tiny.decoder("mixtral", vocabulary=40_000)
    model.num_experts_per_tok = chosen
    settings = Settings.model_validate({"task": "causal-lm", "batch": {"tokens": 16384}, "model": {"name": "tiny"}})
    module = SummedLoss(model)
    choose_loss(settings, module, module, replace(COLLATOR, vocabulary=40_000), lambda text: None)
    assert bool(module.chunks) == (chosen == 2)


def told(model: Any, task: str) -> list[str]:
    said: list[str] = []
    module = SummedLoss(model)
    labels = torch.zeros(1, dtype=torch.int64) if task == "sequence-classification" else torch.zeros(1, 1).long()
    module(torch.ones(1, 1, dtype=torch.int64), labels)
    tell_router_loss(Settings.model_validate({"task": task, "model": {"name": "tiny"}}), module, said.append)
    return said


def test_what_happens_to_the_router_loss_is_said() -> None:
    assert told(tiny.decoder("llama"), "causal-lm") == []
    (said,) = told(tiny.decoder("mixtral"), "causal-lm")
    assert said.startswith("the router loss of tiny is trained too, with the weight 0.5 of its config.json")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 8, "intermediate_size": 32}
    config = MixtralConfig(vocab_size=97, **sizes, pad_token_id=0)  # type: ignore[arg-type]
    (said,) = told(MixtralForSequenceClassification(config), "sequence-classification")
    assert "computes no router loss for it under sequence-classification, so none is trained" in said
