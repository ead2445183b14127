"""The training of an adapter goes on from where another run has left it; added tokens get embeddings of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from adapters import CLASSIFY, loaded, settings_of
from distrain_trainer.errors import SettingsError
from distrain_trainer.models.load import load_model, load_tokenizer
from distrain_trainer.models.lora import saved_names
from distrain_trainer.training.run import run
from runs import losses, tensors


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {in_file: model.get_parameter(name) for name, in_file in saved_names(model).items()}


def test_a_new_run_begins_with_the_adapter_and_its_head(
    lora: Path, bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    names = ("animals", "films", "numbers")
    for folder in (lora, lora / "final"):
        asked = settings_of(bert, few_texts, tmp_path / "out", **CLASSIFY | {"lora.adapter": str(folder)})
        model = load_model(asked, str(bert), None, load_tokenizer(str(bert), None), names)
        kept, found = tensors(lora / "final"), adapter_of(model)
        assert kept.keys() == found.keys() and all(torch.equal(kept[name], found[name]) for name in kept)
    run(
        settings_of(
            bert, few_texts, tmp_path / "out", **CLASSIFY | {"lora.adapter": str(lora), "schedule.max_steps": 2}
        ),
        False,
    )
    before, after = losses(lora), losses(tmp_path / "out")
    assert after[1] < before[1] - 0.1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"lora.rank": 4}, r"lora\.rank is 4 but lora\.adapter .* has 8; set it to that"),
        ({"lora.alpha": 1.0}, r"lora\.alpha is 1\.0 but"),
        ({"lora.dora": True}, r"lora\.dora is True but"),
        ({"lora.target_modules": ["query"]}, r"other layers than lora\.target_modules and the task give"),
        ({"lora.adapter": "nowhere"}, "holds no adapter"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(lora: Path, bert: Path, more: dict[str, Any], sentence: str) -> None:
    same = {"lora.rank": 8, "lora.alpha": 32.0, "lora.adapter": str(lora), "task": "sequence-classification"}
    with pytest.raises(SettingsError, match=sentence):
        loaded(bert, **same | more)


def test_added_tokens_are_one_token_each_with_an_embedding(llama: Path, tmp_path: Path) -> None:
    added = ["<|im_start|>", "<|im_end|>"]
    plain = load_tokenizer(str(llama), None)
    asked = settings_of(llama, None, tmp_path, **{"task": "causal-lm", "model.added_tokens": added})
    tokenizer = load_tokenizer(str(llama), None, asked.model.added_tokens or ())
    assert tokenizer.convert_tokens_to_ids(added) == [len(plain), len(plain) + 1]
    assert tokenizer.tokenize("cat<|im_end|>")[-1] == "<|im_end|>"
    models = [load_model(asked, str(llama), None, tokenizer, None) for _ in range(2)]
    first, second = (model.get_input_embeddings().weight for model in models)
    assert first.shape[0] == len(tokenizer) and torch.equal(first, second)
    assert models[0].config.vocab_size == models[0].get_output_embeddings().weight.shape[0] == len(tokenizer)
    sharded = load_model(
        settings_of(
            llama, None, tmp_path, **{"task": "causal-lm", "model.added_tokens": added, "strategy.kind": "fsdp"}
        ),
        str(llama),
        None,
        tokenizer,
        None,
    )
    assert torch.equal(sharded.get_input_embeddings().weight, first)
    with pytest.raises(ValidationError, match=r"model\.added_tokens gives the model new embeddings"):
        settings_of(llama, None, tmp_path, **{"model.added_tokens": added, "lora.rank": 4})
