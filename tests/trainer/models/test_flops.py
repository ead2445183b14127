"""The operations of a step, against those that torch counts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5Config, T5ForConditionalGeneration

import tiny
from distrain_trainer.models.flops import flops_per_token

ROW = 96


def operations(model: torch.nn.Module) -> float | None:
    """The estimate for a token of a row of `ROW`."""
    found = flops_per_token(model)
    return None if found is None else found(ROW)


def counted(model: torch.nn.Module, rows: int = 3) -> int:
    """Operations of a forward and a backward pass for one token."""
    inputs = torch.full((rows, ROW), 7)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(model(input_ids=inputs, labels=inputs).loss)
    total: int = counter.get_total_flops()
    return total // inputs.numel()


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
    estimate = operations(model)
    assert estimate == pytest.approx(counted(model), rel=0.03)


def test_a_frozen_matrix_costs_no_gradient_of_its_own(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_gpt2(tmp_path), attn_implementation="eager")
    whole = operations(model)
    frozen = [parameter for name, parameter in model.named_parameters() if ".mlp.c_fc.weight" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    less = operations(model)
    assert whole is not None and less == whole - 2 * sum(parameter.numel() for parameter in frozen)


def test_what_does_not_send_each_token_through_each_matrix_is_unknown(tmp_path: Path) -> None:
    experts = AutoModelForCausalLM.from_pretrained(tiny.tiny_mixtral(tmp_path))
    pair = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50))
    for model in (experts, pair):
        assert operations(model) is None
