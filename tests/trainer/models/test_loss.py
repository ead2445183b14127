"""The loss in chunks is the loss, and the whole logits of a large vocabulary never exist."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.activations import CHUNK_BYTES, WHOLE_BYTES, chunks_for
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.training.probes import choose_loss, probe

VOCABULARY = 97
NO_ROWS = Rows(np.zeros(0, np.int32), np.zeros(1, np.int64))
CAUSAL = Settings(task="causal-lm", data={"max_length": 48})
COLLATOR = Collator(NO_ROWS, "causal-lm", 1, 0, -1, VOCABULARY, 0.15, False)
MODELS = ["gpt2", "llama", "tied llama", "gemma2", "granite"]


def batch(packed: bool = False, collator: Collator = COLLATOR) -> dict[str, torch.Tensor]:
    """Texts of random tokens; every third target is left out."""
    found = probe(CAUSAL, collator, packed)
    found["labels"].flatten()[::3] = IGNORE_INDEX
    return found


def loss_and_gradients(module: SummedLoss, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss, _ = module(**inputs)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", MODELS)
def test_loss_gradients_and_predictions_are_those_of_whole_logits(kind: str, packed: bool) -> None:
    module = SummedLoss(tiny.decoder(kind))
    inputs = batch(packed)
    whole, expected = loss_and_gradients(module, inputs)
    module.chunks = 4
    loss, gradients = loss_and_gradients(module, inputs)
    assert loss == pytest.approx(whole, rel=1e-6)
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6 * largest, msg=name)

    module.eval()
    valid = inputs["labels"] != IGNORE_INDEX
    seen = [module(**inputs)[1][valid]]
    module.chunks = 0
    seen.append(module(**inputs)[1][valid])
    assert torch.equal(*seen)


def test_an_adapter_is_reached_on_both_ways() -> None:
    """On the output layer too, where its dropout is drawn once and not again in the backward pass."""
    adapted = LoraConfig(r=4, lora_dropout=0.2, init_lora_weights=False, target_modules=["q_proj", "lm_head"])
    module = SummedLoss(get_peft_model(tiny.decoder("llama"), adapted))
    module.chunks = 4
    inputs, found = batch(packed=True), []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(loss_and_gradients(module, inputs))
    weights = module.model.get_base_model().lm_head.lora_B["default"].weight
    step = 1e-3 * torch.sign(weights.grad)
    expected = float((weights.grad * step).sum())
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weights += sign * step
            torch.manual_seed(1)
            values.append(module(**inputs)[0].item())
            weights -= sign * step
    assert (values[0] - values[1]) / 2 == pytest.approx(expected, rel=0.02)
    assert found[0][0] == found[1][0] and {"lora_A", "lora_B"} == {name.split(".")[-3] for name in found[0][1]}

    module.eval()
    chunked = module(**inputs)[0].item()
    module.chunks = 0
    assert module(**inputs)[0].item() == pytest.approx(chunked, rel=1e-6)


@pytest.mark.parametrize("targets", [0, 1, 3])
def test_every_micro_batch_calls_the_output_layer_equally_often(targets: int) -> None:
    """A strategy that shards it would hang if one process called it more often than another."""
    module = SummedLoss(tiny.decoder("llama"))
    inputs = batch()
    reached = loss_and_gradients(module, inputs)[1].keys()
    calls = []
    module.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    inputs["labels"].flatten()[inputs["labels"].flatten().cumsum(0).argmax() :] = IGNORE_INDEX
    places = (inputs["labels"].flatten() != IGNORE_INDEX).nonzero().squeeze(1)
    inputs["labels"].flatten()[places[targets:]] = IGNORE_INDEX
    module.chunks = 4
    loss, gradients = loss_and_gradients(module, inputs)
    assert len(calls) == 2 * module.chunks
    assert gradients.keys() == reached
    assert (loss > 0) == (targets > 0)
    assert any(gradient.any() for gradient in gradients.values()) == (targets > 0)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types no subclassing of it
    """Elements of the largest tensor that any operation gives, backward too."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return given


def test_whole_logits_never_exist() -> None:
    vocabulary = 5000
    module = SummedLoss(tiny.decoder("tied llama", vocabulary=vocabulary))
    inputs = batch(collator=replace(COLLATOR, vocabulary=vocabulary))
    targets = int((inputs["labels"] != IGNORE_INDEX).sum())
    found = []
    for chunks in (0, targets // 4):
        module.chunks = chunks
        with Largest() as largest:  # type: ignore[no-untyped-call]
            loss_and_gradients(module, inputs)
        found.append(largest.elements)
    weight = 32 * vocabulary
    assert found[0] == inputs["input_ids"].numel() * vocabulary
    assert found[1] == max(ceil(targets / (targets // 4)) * vocabulary, weight)


def chosen(kind: str, wanted: bool | None, precision: str = "fp32", change: Callable[[Any], None] | None = None) -> int:
    """The chunks that are chosen for a model with a large vocabulary, which is said."""
    module = SummedLoss(tiny.decoder(kind, vocabulary=40_000), precision)
    if change:
        change(module.model)
    settings = Settings(
        task="causal-lm", batch={"tokens": 16384}, model={"name": "tiny", "chunked_loss": wanted}, precision=precision
    )
    said: list[str] = []
    choose_loss(settings, module, module, replace(COLLATOR, vocabulary=40_000), said.append)
    assert module.training
    if wanted is False:
        assert not said
    elif module.chunks:
        assert said == [
            "the loss is computed in chunks of at most 256 MiB of logits, 10 per micro-batch, not 2.4 GiB at once"
        ]
    else:
        assert "the loss is computed over whole logits, because tiny computes its logits differently" in said[0]
    return module.chunks


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_large_logits_are_computed_in_chunks(kind: str, precision: str) -> None:
    assert chosen(kind, None, precision) == 10
    assert chosen(kind, False, precision) == 0


def turn(model: torch.nn.Module) -> None:
    """Lets the model do something to its logits that nobody knows of."""
    model.register_forward_hook(
        lambda _module, _inputs, output: output.__setitem__("logits", output.logits.roll(1, -1))
    )


def hide(model: Any) -> None:
    """Lets the model have no output layer that can be found."""
    model.get_output_embeddings = lambda: None


@pytest.mark.parametrize("change", [turn, hide])
def test_chunks_that_are_not_the_models_own_logits_are_not_used(change: Callable[[Any], None]) -> None:
    assert chosen("llama", None, change=change) == 0
    with pytest.raises(SettingsError, match=r"model\.chunked_loss is true but tiny computes its logits differently"):
        chosen("llama", True, change=change)


def test_a_capped_model_taken_for_an_uncapped_one_is_found_out() -> None:
    def uncap(model: Any) -> None:
        model.config.get_text_config = lambda: SimpleNamespace(vocab_size=40_000)

    assert chosen("gemma2", None, change=uncap) == 0
    assert chosen("gemma2", None, "bf16", change=uncap) == 0


def test_chunks_follow_from_size_alone() -> None:
    assert chunks_for(None, 4096, 30_000) == 0
    assert chunks_for(None, 4096, 128_256) == 8
    assert chunks_for(False, 4096, 128_256) == 0
    assert chunks_for(True, 8, 10) == 1
    just = WHOLE_BYTES // 4 // 4096
    assert (chunks_for(None, 4096, just), chunks_for(None, 4096, just + 1)) == (0, WHOLE_BYTES // CHUNK_BYTES + 1)
    rng = np.random.default_rng(1)
    for tokens, vocabulary in rng.integers(1, 300_000, (100, 2)).tolist():
        chunks = chunks_for(True, tokens, vocabulary)
        assert 4 * ceil(tokens / chunks) * vocabulary <= CHUNK_BYTES + 4 * vocabulary


def test_contradictions() -> None:
    for changes, sentence in (
        ({"model": {"chunked_loss": True}}, "model.chunked_loss is for causal-lm and chat"),
        ({"batch": {"packing": True}}, "batch.packing is for causal-lm and chat"),
        ({"model": {"attention": "flash_attention_2"}}, "computes in bf16 or fp16, but precision is fp32"),
        ({"model": {"freeze": "*a*"}, "lora": {"rank": 4}}, "lora.rank freezes the whole model already"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Settings.model_validate(changes)
