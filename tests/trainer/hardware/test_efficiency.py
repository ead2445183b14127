"""The operations of a step, against those that torch counts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5Config, T5ForConditionalGeneration

import tiny
from distrain_trainer.hardware.efficiency import Efficiency, flops_per_token, peak_flops

ROW = 96


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
    estimate = flops_per_token(model, ROW)
    assert estimate == pytest.approx(counted(model), rel=0.03)


def test_a_frozen_matrix_costs_no_gradient_of_its_own(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_gpt2(tmp_path), attn_implementation="eager")
    whole = flops_per_token(model, ROW)
    frozen = [parameter for name, parameter in model.named_parameters() if ".mlp.c_fc.weight" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    less = flops_per_token(model, ROW)
    assert whole is not None and less == whole - 2 * sum(parameter.numel() for parameter in frozen)


def test_what_does_not_send_each_token_through_each_matrix_is_unknown(tmp_path: Path) -> None:
    experts = AutoModelForCausalLM.from_pretrained(tiny.tiny_mixtral(tmp_path))
    pair = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50))
    for model in (experts, pair):
        assert flops_per_token(model, ROW) is None


def test_a_gpus_peak_is_that_of_its_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H200", "fp32") == 67e12
    assert peak_flops("NVIDIA L40S", "fp16") == 362e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "fp32") == 19.5e12
    assert peak_flops("Some other device", "bf16") is None


def test_the_share_of_the_peak_counts_all_gpus() -> None:
    two = Efficiency(lambda row: 1e9 + row, 1e12, torch.device("cpu"), processes=2)
    line = two.step(tokens=1000, samples=10, seconds=1.0)
    assert line["mfu"] == pytest.approx(1000 * (1e9 + 100) / 2e12)
    nothing = Efficiency(lambda row: None, 1e12, torch.device("cpu"), processes=1)
    assert nothing.step(1000, 10, 1.0) == {"gpu_utilization": None, "mfu": None}
