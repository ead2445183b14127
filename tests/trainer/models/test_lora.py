"""Adapters: only they are trained, and they are saved as peft reads them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)

from adapters import CLASSIFY, QUANTIZED, loaded, logits, settings_of
from distrain_trainer.errors import SettingsError
from distrain_trainer.inference.trained import load
from distrain_trainer.models.load import parameter_counts
from distrain_trainer.models.lora import saved_names
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.optimizer import build_optimizer, load_state, state_tensors
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import Optimizer
from distrain_trainer.storage.layout import BEST
from distrain_trainer.storage.safetensors_writer import SafetensorsWriter
from distrain_trainer.training.run import run
from runs import digest, finish, losses, tensors, train


def mean_loss(found: dict[int, float], steps: range) -> float:
    return sum(found[step] for step in steps) / len(steps)


# LoRA


def test_lora_lowers_the_loss_and_trains_nothing_of_the_base(lora: Path, bert: Path) -> None:
    found = losses(lora)
    assert mean_loss(found, range(29, 33)) < mean_loss(found, range(1, 5)) - 0.1
    trained = load(str(lora), {})
    base = load_file(bert / "model.safetensors")
    held = {name.replace(".base_layer.", "."): p for name, p in trained.model.get_base_model().named_parameters()}
    shared = held.keys() & base.keys()
    assert len(shared) > 30 and all(torch.equal(held[name], base[name]) for name in shared)
    record = json.loads((lora / "settings.json").read_text())["parameters"]
    assert record["trainable"] == sum(t.numel() for t in tensors(lora / "final").values())
    assert record["trainable"] < record["all"] / 3


@pytest.mark.parametrize("name", ["final", "checkpoint-32", BEST])
def test_a_folder_of_an_adapter_is_one_for_peft(lora: Path, bert: Path, name: str) -> None:
    folder = lora / name
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3)
    model = PeftModel.from_pretrained(base, folder)
    trained = load(str(folder), {})
    assert torch.equal(logits(model, trained.tokenizer), logits(trained.model, trained.tokenizer))
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(bert) and described["task_type"] == "SEQ_CLS"
    assert not (folder / "config.json").exists()  # with it transformers would look for a whole model here


def test_new_layers_are_trained_whole_and_kept_with_the_adapter(lora: Path) -> None:
    names = set(tensors(lora / "final"))
    whole = {name for name in names if ".lora_" not in name}
    layers = ("classifier", "bert.pooler.dense")
    assert whole == {f"base_model.model.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.matrix
def test_a_resumed_lora_run_ends_with_the_same_bits(lora: Path, bert: Path, few_texts: Path, tmp_path: Path) -> None:
    half = CLASSIFY | {"schedule.max_steps": 16}
    run(settings_of(bert, few_texts, tmp_path, **half), resume=False)
    run(settings_of(bert, few_texts, tmp_path, **CLASSIFY), resume=True)
    assert digest(tmp_path / "final") == digest(lora / "final")
    assert digest(tmp_path / "checkpoint-32") == digest(lora / "checkpoint-32")
    assert losses(tmp_path) == losses(lora)


KINDS = [
    ("bert", "masked-lm", {"lora.dora": True}),
    ("bert", "sequence-classification", {"lora.target_modules": ["query", "value"]}),
    ("gpt2", "causal-lm", {"lora.rank_stabilized": True}),
    ("gpt2", "sequence-classification", {}),
    ("llama", "causal-lm", {"quantization.bits": 4, "lora.dora": True}),
    ("llama", "sequence-classification", {"quantization.bits": 8}),
    ("bert", "sequence-classification", {"quantization.bits": 4}),
]


@pytest.mark.parametrize(("model", "task", "more"), KINDS)
def test_what_is_saved_is_what_peft_saves(
    model: str, task: str, more: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    adapted = loaded(request.getfixturevalue(model), task=task, **more)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    theirs = load_file(tmp_path / "adapter_model.safetensors")
    parameters = dict(adapted.named_parameters())
    ours = {in_file: parameters[name] for name, in_file in saved_names(adapted).items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {id(p) for p in ours.values()} == {id(p) for p in parameters.values() if p.requires_grad}
    assert {p.dtype for p in ours.values()} == {torch.float32}
    assert adapted.peft_config["default"].revision == "a-commit"


@pytest.mark.parametrize(("model", "task", "more"), KINDS)
def test_every_trained_parameter_gets_a_gradient_also_after_an_evaluation(
    model: str, task: str, more: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    adapted = loaded(request.getfixturevalue(model), task=task, **more | {"model.gradient_checkpointing": True})
    module = SummedLoss(adapted)
    ids = torch.arange(5, 13).reshape(2, 4)
    labels = torch.tensor([0, 1]) if task == "sequence-classification" else ids
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with torch.no_grad():
        module.eval()(**batch)
    module.train()(**batch)[0].backward()
    assert [n for n, p in adapted.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_same_seed_makes_the_same_adapter_whatever_the_base_is_held_in(llama: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, {"quantization.bits": 4}, {"quantization.bits": 8}, {"seed": 7}]
    made = [loaded(llama, task="causal-lm", **kind) for kind in kinds]
    weights = [{in_file: m.get_parameter(n) for n, in_file in saved_names(m).items()} for m in made]
    for other in weights[1:3]:
        assert all(torch.equal(other[name], tensor) for name, tensor in weights[0].items())
    assert any(not torch.equal(weights[3][name], tensor) for name, tensor in weights[0].items())


def test_a_base_is_held_in_the_type_of_the_precision(bert: Path) -> None:
    adapted = loaded(bert, precision="bf16")
    kinds: dict[bool, set[torch.dtype]] = {p.requires_grad: set() for p in adapted.parameters()}
    for parameter in adapted.parameters():
        kinds[parameter.requires_grad].add(parameter.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    ids = torch.arange(5, 13).reshape(2, 4)
    loss, _ = SummedLoss(adapted, "bf16")(ids, torch.tensor([0, 1]), torch.ones_like(ids))
    loss.backward()
    assert torch.isfinite(loss)


def test_four_bits_are_counted_as_the_weights_they_hold(llama: Path) -> None:
    whole, quantized = (loaded(llama, task="causal-lm", **more) for more in ({}, {"quantization.bits": 4}))
    assert parameter_counts(quantized) == parameter_counts(whole)


def test_layers_that_are_not_there_are_named_with_those_that_are(bert: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        loaded(bert, **{"lora.target_modules": ["query", "q_proj"]})
    assert str(refused.value) == (
        f"lora.target_modules names q_proj, which {bert} does not have; its linear layers are query, key, value, dense"
    )


# QLoRA


def test_qlora_lowers_the_loss(qlora: Path) -> None:
    found = losses(qlora)
    assert mean_loss(found, range(10, 13)) < mean_loss(found, range(1, 4)) - 0.1
    module = load(str(qlora), {}).model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert type(module).__name__ == "Linear4bit" and module.weight.quant_state.quant_type == "nf4"


def test_qlora_is_the_same_on_two_processes(qlora: Path, llama: Path, few_texts: Path, tmp_path: Path) -> None:
    options = [f"--{name}={value}" for name, value in (QUANTIZED | {"batch.micro_batches": 2}).items()]
    finish([*train(llama, few_texts, tmp_path, 2), "--data.evaluation_fraction=0.1", *options])
    found = losses(tmp_path)
    assert mean_loss(found, range(10, 13)) < mean_loss(found, range(1, 4)) - 0.1
    assert found == pytest.approx(losses(qlora), abs=1e-5)
    assert {path.name for path in (tmp_path / "checkpoint-12").glob("*.safetensors")} == {
        "adapter_model.safetensors",
        "optimizer.safetensors",
    }


def quantized_base(llama: Path) -> Any:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(llama, quantization_config=config, dtype=torch.float32)
    module: Any
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False  # else the library computes in bf16 where the CPU has it
    return base


def test_the_adapter_reloads_on_the_same_quantized_base_with_identical_logits(qlora: Path, llama: Path) -> None:
    model = PeftModel.from_pretrained(quantized_base(llama), qlora / "final")
    trained = load(str(qlora), {})
    assert torch.equal(logits(model, trained.tokenizer), logits(trained.model, trained.tokenizer))


def test_merging_into_the_dequantized_base_agrees(qlora: Path, llama: Path) -> None:
    trained = load(str(qlora), {})
    base = quantized_base(llama).dequantize()
    merged = PeftModel.from_pretrained(base, qlora / "final").merge_and_unload()
    apart = (logits(merged, trained.tokenizer) - logits(trained.model, trained.tokenizer)).abs().max()
    assert float(apart) < 1e-4


# 8-bit optimizer


def test_the_state_of_eight_bits_comes_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)) for _ in range(2)]
    optimizers = [build_optimizer(model, Optimizer(name="adamw_8bit", learning_rate=0.01)) for model in models]

    def step(number: int, rows: torch.Tensor) -> float:
        loss = models[number](rows).square().mean()
        loss.backward()
        optimizers[number].step()
        optimizers[number].zero_grad()
        return float(loss)

    rows = torch.randn(8, 64)
    before = [step(0, rows) for _ in range(5)]
    assert before[-1] < before[0]
    for old, new in zip(models[0].parameters(), models[1].parameters(), strict=True):
        new.data.copy_(old)
        state = state_tensors(optimizers[0], old)
        path = tmp_path / "state.safetensors"
        file = SafetensorsWriter(path, ((name, tensor.dtype, tensor.shape) for name, tensor in state.items()))
        for tensor in state.values():
            file.append(tensor)
        file.close()
        load_state(optimizers[1], new, load_file(path))
    assert state_tensors(optimizers[0], models[0].get_parameter("0.weight"))["state1"].dtype == torch.uint8
    for _ in range(3):
        assert step(0, rows) == step(1, rows)
    for old, new in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(old, new)


# What is refused


REFUSED = [
    ({"quantization.bits": "4"}, "set lora.rank to train an adapter"),
    ({"lora.alpha": "8"}, "lora.rank is not set"),
    ({"lora.rank": "8", "quantization.compute_dtype": "bf16"}, "quantization.bits is not set"),
    ({"lora.rank": "8", "quantization.bits": "8", "quantization.compute_dtype": "bf16"}, "is for 4 bits"),
    ({"lora.rank": "8", "quantization.bits": "8", "lora.dora": "true"}, "choose 4 bits"),
    ({"lora.rank": "8", "lora.target_modules": "all-linear,query"}, "keep one or the other"),
    ({"lora.rank": "8", "lora.target_modules": "[]"}, "lora.target_modules is empty"),
    ({"model.dtype": "bf16", "precision": "bf16"}, "model.dtype is for the frozen weights under an adapter"),
    ({"lora.rank": "8", "model.dtype": "bf16"}, "set precision to bf16 or fp16"),
    ({"lora.rank": "8", "quantization.bits": "4", "strategy.kind": "zero3"}, "choose ddp, zero1 or zero2"),
    ({"lora.rank": "8", "quantization.bits": "4", "strategy.kind": "fsdp"}, "choose ddp, zero1 or zero2"),
    ({"optimizer.name": "adamw_8bit", "strategy.kind": "zero1"}, "adamw_8bit conflicts with strategy.kind zero1"),
    ({"optimizer.name": "adamw_8bit", "strategy.kind": "fsdp"}, "adamw_8bit conflicts with strategy.kind fsdp"),
    ({"optimizer.name": "adamw_8bit", "optimizer.momentum": "0.9"}, "optimizer.momentum is for sgd"),
]


@pytest.mark.parametrize(("flags", "sentence"), REFUSED)
def test_what_does_not_go_together_is_refused_in_one_sentence(flags: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(None, flags, {})
    assert sentence in str(refused.value) and "\n" not in str(refused.value)
