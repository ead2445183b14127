"""The operations of a step, against those that torch counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.models.flops import flops_of
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.preference import PREFERENCE

ROWS, LENGTH = 3, 96


def operations(model: torch.nn.Module) -> float | None:
    """The estimate for `ROWS` of `LENGTH`."""
    found = flops_of(model)
    return None if found is None else found.of(ROWS * LENGTH, 0, ROWS)


def counted(loss_of: Callable[[], torch.Tensor]) -> int:
    """Operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(loss_of())
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize(
    ("build", "loader"),
    [
        (tiny.tiny_gpt2, AutoModelForCausalLM),
        (tiny.tiny_llama, AutoModelForCausalLM),
        (tiny.tiny_bert, AutoModelForMaskedLM),
    ],
)
def test_operations_are_those_that_torch_counts(
    build: Callable[[Path], Path], loader: type[AutoModelForCausalLM], tmp_path: Path
) -> None:
    model = loader.from_pretrained(build(tmp_path), attn_implementation="eager")
    inputs = torch.full((ROWS, LENGTH), 7)
    wanted = counted(lambda: model(input_ids=inputs, labels=inputs).loss)
    assert operations(model) == pytest.approx(wanted, rel=0.03)


def test_heads_may_be_wider_than_the_model() -> None:
    """As in Qwen 3, whose heads are not a part of the hidden size."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 64}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, intermediate_size=32, **sizes))
    model.set_attn_implementation("eager")
    inputs = torch.full((ROWS, LENGTH), 7)
    wanted = counted(lambda: model(input_ids=inputs, labels=inputs).loss)
    assert operations(model) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_of_two_texts_each_attends_to_itself_and_what_is_not_learned_from_only_goes_forwards(
    method: Any, tmp_path: Path
) -> None:
    """A pair's texts are both learned from, of judged answers the first."""
    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_llama(tmp_path), attn_implementation="eager")
    ids = np.full(2 * ROWS * LENGTH, 7, np.int32)
    offsets, firsts = np.arange(ROWS + 1) * 2 * LENGTH, np.full(ROWS, LENGTH)
    rows = Rows(ids, offsets, ids, firsts=firsts, desirable=np.ones(ROWS, np.int8) if method == "kto" else None)
    collator = Collator(rows, "preference", 1, 0, -1, 100, 0.15, False)
    numbers = np.arange(ROWS)
    batch: Any = collator(numbers, 0) | {"reference": torch.zeros(2 * ROWS)}
    module = SummedLoss(model, task=PREFERENCE, preference=Preference(method=method))
    flops = flops_of(model)
    assert flops is not None
    estimate = flops.of(collator.tokens(numbers), collator.forward_only(numbers), collator.texts(numbers))
    assert estimate == pytest.approx(counted(lambda: module(**batch)[0]), rel=0.03)


def test_a_frozen_matrix_costs_no_gradient_of_its_own(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_gpt2(tmp_path), attn_implementation="eager")
    whole = operations(model)
    frozen = [parameter for name, parameter in model.named_parameters() if ".mlp.c_fc.weight" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    less = operations(model)
    assert whole is not None
    assert less == whole - 2 * ROWS * LENGTH * sum(parameter.numel() for parameter in frozen)


def test_what_does_not_send_each_token_through_each_matrix_is_unknown(tmp_path: Path) -> None:
    experts = AutoModelForCausalLM.from_pretrained(tiny.tiny_mixtral(tmp_path))
    pair = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50))
    for model in (experts, pair):
        assert operations(model) is None
