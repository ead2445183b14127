"""How numbers are computed, and what that takes."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from distrain_trainer.models.loss import SummedLoss

BLOCKS, TOKENS = 8, 8


@pytest.fixture
def wide() -> SummedLoss:
    """A model whose matrices are far larger than what a row of 8 tokens makes of them, in bf16 with checkpoints."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 32}
    model: Any = LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=BLOCKS, num_attention_heads=4, num_key_value_heads=2, **sizes)
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return SummedLoss(model.train(), "bf16")


def highest(profiled: Any) -> int:
    """Bytes at the allocator's highest mark, above those at the start."""
    level = mark = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            mark = max(mark, level)
    return mark


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_forward_pass_holds_16_bit_copies_of_one_block_at_a_time(
    wide: SummedLoss, training: bool, chunks: int
) -> None:
    """Where autograd does not keep them: with checkpoints, and in an evaluation."""
    wide.train(training)
    wide.chunks = chunks
    ids = torch.randint(0, 32, (1, TOKENS))
    with torch.set_grad_enabled(training), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss, _ = wide(ids, ids, torch.ones_like(ids))
    copies = 2 * sum(
        matrix.numel() for name, matrix in wide.named_parameters() if "layers" in name and matrix.dim() == 2
    )
    assert loss.isfinite()
    assert highest(profiled) < 2 * copies / BLOCKS


def test_chunks_add_up_to_the_gradient_of_the_whole_in_fp32(wide: SummedLoss) -> None:
    """Each chunk casts the output layer for itself, so that what they add to its gradient is not rounded to bf16."""
    ids = torch.randint(0, 32, (64, TOKENS))
    model: Any = wide.model
    found = []
    for chunks in (0, 64):
        wide.chunks = chunks
        wide.zero_grad()
        wide(ids, ids, torch.ones_like(ids))[0].backward()
        found.append(model.get_output_embeddings().weight.grad.double())
    whole, summed = found
    assert float((summed - whole).norm() / whole.norm()) < 4e-3
