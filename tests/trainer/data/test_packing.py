"""Packed texts are computed as if each were alone, every one once, on any number of processes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import tiny
from distrain_trainer.data.loader import Collator, StepDataset
from distrain_trainer.data.packing import Packing, pack, packing_of
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.tokens import prepare
from distrain_trainer.errors import SettingsError
from distrain_trainer.models.load import load_tokenizer
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.training.planning import plan_of
from distrain_trainer.training.probes import check_packing
from runs import losses, metrics, tensors

EXAMPLES = Path(__file__).parents[3] / "examples"
VOCABULARY = 97
LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60).map(lambda lengths: np.array(lengths, np.int32))


def some_rows(lengths: np.ndarray, seed: int = 0) -> Rows:
    ids = np.random.default_rng(seed).integers(1, VOCABULARY, lengths.sum()).astype(np.int32)
    return Rows(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def collator(rows: Any, packing: Packing | None) -> Collator:
    return Collator(rows, "causal-lm", 1, 0, -1, VOCABULARY, 0.15, False, packing)


@given(LENGTHS, st.integers(20, 50), st.integers(0, 3))
def test_every_text_is_in_one_row_and_no_two_rows_would_fit_into_one(
    lengths: np.ndarray, longest: int, seed: int
) -> None:
    packing = pack(lengths, longest, seed)
    assert sorted(packing.texts.tolist()) == list(range(len(lengths)))
    assert packing.lengths.tolist() == [lengths[packing[row]].sum() for row in range(len(packing))]
    assert packing.lengths.max() <= longest
    assert len(packing) == 1 or np.sort(packing.lengths)[:2].sum() > longest
    again = pack(lengths, longest, seed)
    assert np.array_equal(packing.texts, again.texts) and np.array_equal(packing.starts, again.starts)


def test_the_seed_decides_between_texts_of_equal_length() -> None:
    lengths = np.full(30, 5)
    drawn = [tuple(pack(lengths, 20, seed).texts) for seed in range(4)]
    assert len(set(drawn)) == 4


@given(LENGTHS, st.integers(20, 50), st.integers(1, 5), st.integers(1, 3))
def test_an_epoch_holds_every_token_and_target_once(
    lengths: np.ndarray, longest: int, micro_batches: int, world: int
) -> None:
    rows = some_rows(lengths)
    packing = pack(lengths, longest, 1)
    plan = Plan(packing.lengths, 1, 64, None, micro_batches, epochs=1)
    seen, targets, samples, tokens = [], 0, 0, 0
    for number in range(plan.steps):
        steps = [StepDataset(plan, collator(rows, packing), rank, world)[number] for rank in range(world)]
        samples, tokens = samples + steps[0].samples, tokens + steps[0].tokens
        for batch in (batch for step in steps for batch in step.micro_batches):
            assert "attention_mask" not in batch
            targets += int((batch["labels"] != IGNORE_INDEX).sum())
            for ids, places in zip(batch["input_ids"], batch["position_ids"], strict=True):
                starts = (places == 0).nonzero().flatten().tolist()
                seen += [tuple(part.tolist()) for part in ids.tensor_split(starts)]
    texts = [tuple(rows.input_ids[a:b].tolist()) for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]
    assert sorted(part for part in seen if any(part)) == sorted(texts)
    assert targets == sum(lengths - 1)
    assert (samples, tokens) == (len(lengths), lengths.sum())


def test_a_packed_row_by_hand() -> None:
    targets = np.array([1, 2, IGNORE_INDEX, 4, 5, 6, 7], np.int32)
    rows = Rows(np.arange(11, 18, dtype=np.int32), np.array([0, 4, 6, 7]), targets)
    packing = Packing(np.array([0, 2, 1]), np.array([0, 2, 3]), np.array([5, 2]))
    batch = {name: tensor.tolist() for name, tensor in collator(rows, packing)(np.array([1, 0]), 0).items()}
    assert batch == {
        "input_ids": [[15, 16, 0, 0, 0], [11, 12, 13, 14, 17]],
        "labels": [
            [6, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX],
            [2, IGNORE_INDEX, 4, IGNORE_INDEX, IGNORE_INDEX],
        ],
        "position_ids": [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]],
    }


@pytest.mark.parametrize(
    ("kind", "attention"),
    [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("gemma2", "eager")],
)
@torch.no_grad()
def test_packed_logits_are_those_of_each_text_alone(kind: str, attention: str) -> None:
    model = tiny.decoder(kind, attention).eval()
    assert model.config._attn_implementation == attention
    lengths = np.array([20, 1, 7, 12, 3, 30, 2, 9, 17, 40, 5])
    rows = some_rows(lengths)
    packing = pack(lengths, 40, 1)
    assert len(packing) == 4
    for numbers in (*np.arange(4)[:, None], np.arange(4)):  # each row alone, and all as a batch with padding
        batch = collator(rows, packing)(numbers, 0)
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for row, number in enumerate(numbers):
            start = 0
            for text in packing[number]:
                ids = torch.from_numpy(rows.input_ids[rows.offsets[text] : rows.offsets[text + 1]].astype(np.int64))
                alone = model(input_ids=ids[None]).logits[0]
                torch.testing.assert_close(logits[row, start : start + len(ids)], alone, rtol=0, atol=1e-5)
                start += len(ids)


@torch.no_grad()
def test_rows_laid_end_to_end_for_flash_attention_give_the_same_loss() -> None:
    AttentionInterface.register("flash_by_name", sdpa_attention_forward)
    AttentionMaskInterface.register("flash_by_name", sdpa_mask)
    lengths = np.array([20, 1, 7, 12, 3, 30])
    batch = collator(some_rows(lengths), pack(lengths, 40, 1))(np.arange(2), 0)
    found, shapes = [], []
    for attention in ("sdpa", "flash_by_name"):
        module = SummedLoss(tiny.decoder("llama"))
        module.model.config._attn_implementation = attention
        inner = module.model.model
        inner.register_forward_pre_hook(lambda *a: shapes.append(tuple(a[2]["input_ids"].shape)), with_kwargs=True)
        for module.chunks in (0, 2):
            found.append(module(**batch)[0].item())
    assert shapes == [(2, 40)] * 2 + [(1, 80)] * 2
    assert found == pytest.approx(found[:1] * 4, rel=1e-6)


class Deaf(LlamaForCausalLM):
    """Takes positions and passes them over."""

    def forward(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **more: Any) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)


class Strict(LlamaForCausalLM):
    """Takes no positions."""

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_in_which_texts_see_each_other_is_refused(precision: str) -> None:
    settings = Settings(task="causal-lm", model={"name": "tiny"}, batch={"packing": True}, precision=precision)

    def check(kind: str, family: type | None = None) -> None:
        module = SummedLoss(tiny.decoder(kind), precision)
        if family:
            module.model.__class__ = family
        check_packing(settings, module, module, collator(None, None))
        assert module.training

    for kind in ("llama", "gpt2", "gemma2", "granite"):
        check(kind)
    for kind, family in (("bloom", None), ("llama", Deaf)):
        with pytest.raises(SettingsError, match=r"attend to each other in tiny: .* set batch\.packing=false"):
            check(kind, family)
    with pytest.raises(SettingsError, match=r"tiny does not accept packed rows .* set batch\.packing=false"):
        check("llama", Strict)


def test_the_example_of_continued_pretraining(
    run_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """On two processes; its first loss is that of the step's texts one by one, and tied weights stay one."""
    model = tiny.tiny_gpt2(tmp_path / "gpt2", dropout=0.0)
    draw = np.random.default_rng(1)
    words = " ".join(tiny.LINES).split()
    paragraphs = [" ".join(draw.choice(words, n)) for n in draw.integers(3, 60, 150)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    output = tmp_path / "out"
    flags = {
        "--model.name": model,
        "--model.chunked_loss": "true",
        "--data.files": tmp_path / "book.txt",
        "--data.max_length": 100,
        "--batch.tokens": 400,
        "--batch.samples": "null",
        "--schedule.epochs": 2,
        "--optimizer.learning_rate": "1e-2",
        "--output_dir": output,
        "--processes": 2,
    }
    example = EXAMPLES / "continued-pretraining.yaml"
    done = run_command("train", example, *(part for flag in flags.items() for part in flag))
    assert done.returncode == 0, done.stderr

    settings = Settings.model_validate(json.loads((output / "settings.json").read_text())["settings"])
    tokenizer = load_tokenizer(str(model), None)
    rows = prepare(settings, tokenizer, 100, lambda text: None).train
    said: list[str] = []
    packing = packing_of(settings, rows, said.append)
    assert packing is not None
    assert said[0].startswith(f"packing: {len(rows)} texts in {len(packing)} rows of at most 100 tokens, ")
    assert said[0] in done.stderr and "the loss is computed in chunks" in done.stderr
    lines = [line for line in metrics(output) if "loss" in line]
    assert sum(line["tokens"] for line in lines) == 2 * rows.lengths.sum()
    assert sum(line["samples"] for line in lines) == 2 * len(rows)

    first = plan_of(settings, rows, packing).step(0)
    texts = np.concatenate([packing[row] for row in first.rows])
    alone = SummedLoss(AutoModelForCausalLM.from_pretrained(model)).eval()
    with torch.no_grad():
        total = sum(float(alone(**collator(rows, None)(texts[i : i + 1], 0))[0]) for i in range(len(texts)))
    assert losses(output)[1] == pytest.approx(total / (rows.lengths[texts] - 1).sum(), rel=1e-5)
    assert np.mean([lines[-1]["loss"], lines[-2]["loss"]]) < losses(output)[1] - 0.1

    final = output / "final"
    assert not [name for name in tensors(final) if "lm_head" in name]
    trained: Any = AutoModelForCausalLM.from_pretrained(final)
    assert trained.lm_head.weight is trained.transformer.wte.weight
    assert not torch.equal(trained.lm_head.weight, alone.model.lm_head.weight)
