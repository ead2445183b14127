"""A language model that sees the tokens it is to predict is refused; one that does not is never refused for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

import tiny
from cells import STRATEGIES, cell, launch
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.errors import SettingsError
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.probes import check_causal
from distrain_trainer.training.run import run

VOCABULARY = 97
COLLATOR = Collator(Rows(np.zeros(0, np.int32), np.zeros(1, np.int64)), "causal-lm", 1, 0, -1, VOCABULARY, 0.15, False)
REFUSED = r"task is causal-lm but \S+ is not causal: its tokens see those that follow"

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 32,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1, "chunk_size": 16}
CAUSAL: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: tiny.decoder("gpt2"),
    "llama": lambda: tiny.decoder("llama"),
    "bert as a decoder": lambda: hf.BertLMHeadModel(hf.BertConfig(**SMALL, is_decoder=True)),
    "sliding window": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=4)),
    "sliding and full": lambda: tiny.decoder("gemma2"),
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**MAMBA)),
    "mamba 2": lambda: hf.Mamba2ForCausalLM(hf.Mamba2Config(**MAMBA, **HEADS)),
    "experts": lambda: tiny.decoder("mixtral"),
    "small experts": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**GROUPED, **EXPERTS, num_experts=8)),
    "linear attention": lambda: hf.Qwen3NextForCausalLM(
        hf.Qwen3NextConfig(**GROUPED, **EXPERTS, **LINEAR, num_experts=4)
    ),
}
SLOW = ("linear attention",)  # to import
SEEING: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertLMHeadModel(hf.BertConfig(**SMALL)),
    "roberta": lambda: hf.RobertaForCausalLM(hf.RobertaConfig(**SMALL)),
    "windows that look ahead": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**GROUPED, sliding_window=4, use_bidirectional_attention=True)
    ),
}


def check(model: Any, precision: str, task: str = "causal-lm", **data: Any) -> None:
    settings = Settings.model_validate({"task": task, "model": {"name": "tiny"}, "precision": precision, "data": data})
    module = SummedLoss(model, precision).train()
    check_causal(settings, module, module, COLLATOR)
    assert module.training


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.matrix if kind in SLOW else ()) for kind in CAUSAL]
)
def test_a_causal_model_is_taken(kind: str) -> None:
    torch.manual_seed(1)
    model = CAUSAL[kind]()
    for precision in ("fp32", "bf16"):
        check(model, precision)
    check(model.bfloat16(), "bf16")  # as a frozen base is held


@pytest.mark.parametrize("kind", SEEING)
def test_a_model_whose_tokens_see_those_that_follow_is_refused(kind: str) -> None:
    torch.manual_seed(1)
    model = SEEING[kind]()
    for precision in ("fp32", "bf16"):
        with pytest.raises(SettingsError, match=REFUSED):
            check(model, precision)
    with pytest.raises(SettingsError, match="task is chat but tiny is not causal"):
        check(model, "fp32", "chat")
    with pytest.raises(SettingsError, match=REFUSED):
        check(model, "fp32", max_length=8)
    check(model, "fp32", "masked-lm")


def test_one_token_of_foresight_is_enough_to_be_refused() -> None:
    model = tiny.decoder("llama")

    def look_ahead(_: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0] + 0.3 * args[0].roll(-1, dims=1),)

    model.model.layers[1].mlp.register_forward_pre_hook(look_ahead)
    for precision in ("fp32", "bf16"):
        with pytest.raises(SettingsError, match=REFUSED):
            check(model, precision)


def test_a_run_of_an_encoder_as_a_causal_model_ends_before_its_first_step(
    bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    asked = {"task": "causal-lm", "model": {"name": str(bert)}, "data": {"files": [str(few_texts)]}}
    with pytest.raises(SettingsError, match=REFUSED):
        run(Settings.model_validate(asked | {"output_dir": str(tmp_path / "out")}), resume=False)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.matrix
def test_an_encoder_is_refused_and_a_decoder_taken_under_every_strategy(
    bert: Path, llama: Path, few_texts: Path, tmp_path: Path
) -> None:
    encoder = shutil.copytree(bert, tmp_path / "encoder")
    described = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False}))
    cells = []
    for kind in STRATEGIES:
        for name, model in (("bert", encoder), ("llama", llama)):
            options = {"task": "causal-lm", "strategy__kind": kind, "schedule__max_steps": 1, "batch__packing": False}
            one = cell(model, few_texts, tmp_path / f"{name} {kind}", **options)
            cells.append(one | {"outcome": str(tmp_path / f"{name} {kind}.json")})
    launch(2, cells, tmp_path)
    for kind in STRATEGIES:
        assert "is not causal" in (tmp_path / f"bert {kind}.json").read_text(), kind
        assert (tmp_path / f"llama {kind}.json").read_text() == "null", kind
