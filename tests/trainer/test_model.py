"""The model: found, refused in one sentence, and made ready for its task."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from distrain_trainer.errors import SettingsError
from distrain_trainer.loss import SummedLoss
from distrain_trainer.model import load_config, load_model, load_tokenizer, longest_row, resolve
from distrain_trainer.settings import Model, Settings


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_never_looked_for_on_the_hub(name: str):
    with pytest.raises(SettingsError, match="is no folder here; check the path"):
        resolve(Model(name=name))


def test_a_folder_without_a_model_is_said(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"without config\.json"):
        resolve(Model(name=str(tmp_path)))


def test_rows_are_as_long_as_model_and_micro_batch_allow(bert: Path):
    config, tokenizer = load_config(str(bert), None), load_tokenizer(str(bert), None)
    longest = tiny.POSITIONS
    assert longest_row(Settings(), config, tokenizer) == longest
    assert longest_row(Settings(batch={"tokens": 50}), config, tokenizer) == 50
    assert longest_row(Settings(data={"max_length": 20}), config, tokenizer) == 20
    with pytest.raises(SettingsError, match=f"takes {longest} tokens at most"):
        longest_row(Settings(data={"max_length": longest + 1}), config, tokenizer)


def test_a_model_without_a_pad_token_gets_one_in_tokenizer_and_config(gpt2: Path):
    tokenizer = load_tokenizer(str(gpt2), None)
    assert tokenizer.pad_token == tokenizer.eos_token
    model = load_model(Settings(task="causal-lm"), str(gpt2), None, tokenizer, None)
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_new_layers_are_made_under_the_seed_and_named_after_the_data(bert: Path):
    tokenizer = load_tokenizer(str(bert), None)
    heads = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # whatever was drawn before
        model = load_model(Settings(seed=seed), str(bert), None, tokenizer, ("no", "yes"))
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_are_no_safetensors_are_refused(bert: Path, tmp_path: Path):
    for path in bert.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_model(Settings(), str(tmp_path), None, load_tokenizer(str(bert), None), ("no", "yes"))


def test_the_loss_is_a_sum_over_valid_targets_computed_by_hand():
    logits = torch.randn(2, 3, 5)
    model = torch.nn.Module()
    model.forward = lambda **_: SimpleNamespace(logits=logits)
    labels = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    loss, seen = SummedLoss(model)(torch.zeros(2, 3), torch.ones(2, 3), labels)
    chosen = [(0, 0, 1), (0, 2, 4), (1, 2, 0)]
    by_hand = sum(-logits[row, place].log_softmax(-1)[label] for row, place, label in chosen)
    assert loss == pytest.approx(float(by_hand), abs=1e-5)
    assert not seen.requires_grad
