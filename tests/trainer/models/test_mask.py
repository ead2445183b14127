"""A causal model gets no attention mask where its logits are the same without one."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, PreTrainedModel

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.probes import choose_mask, probe

NO_ROWS = Rows(np.zeros(0, np.int32), np.zeros(1, np.int64))
CAUSAL = Settings.model_validate({"task": "causal-lm", "data": {"max_length": 48}})
VOCABULARY = 97
COLLATOR = Collator(NO_ROWS, "causal-lm", 1, 0, -1, VOCABULARY, 0.15, False)


def chosen(model: PreTrainedModel, settings: Settings = CAUSAL, precision: str = "fp32") -> SummedLoss:
    module = SummedLoss(model, precision).train()
    choose_mask(settings, module, module, COLLATOR)
    assert module.training
    return module


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied llama", "gemma2", "granite", "bloom"])
def test_logits_of_real_tokens_are_the_same_bit_by_bit_without_a_mask(kind: str, attention: str) -> None:
    if (kind, attention) in (("gemma2", "sdpa"), ("bloom", "sdpa")):
        attention = "eager"  # all that they have
    module = chosen(tiny.decoder(kind, attention))
    assert not module.needs_mask
    batch = probe(CAUSAL, COLLATOR, packed=False)
    assert not batch["attention_mask"].all()
    seen: list[dict[str, Any]] = []
    module.model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    module.eval()
    found = []
    for module.needs_mask in (True, False):
        with torch.no_grad():
            found.append(module(**batch, with_logits=True))
    assert seen[0]["attention_mask"] is not None and seen[1]["attention_mask"] is None
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom"])
def test_in_bf16_too(kind: str) -> None:
    assert not chosen(tiny.decoder(kind), precision="bf16").needs_mask


def test_a_model_that_attends_to_what_follows_keeps_its_mask() -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=VOCABULARY, **sizes, initializer_range=0.2, is_decoder=False)  # type: ignore[arg-type]
    assert chosen(BertLMHeadModel(config)).needs_mask


def test_a_model_that_counts_positions_by_its_mask_alone_keeps_it() -> None:
    model = tiny.decoder("gpt2")

    def demand(module: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        given["attention_mask"].sum()

    model.register_forward_pre_hook(demand, with_kwargs=True)
    assert chosen(model).needs_mask


def test_other_tasks_keep_their_mask() -> None:
    assert chosen(tiny.decoder("gpt2"), Settings(task="sequence-classification")).needs_mask
