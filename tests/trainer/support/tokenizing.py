"""What tests of tokenizing share: small tokenizers, and rows in a file made into tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import tiny
from distrain_trainer.data.tokens import prepare
from distrain_trainer.settings.model import Settings

BERT = tiny.wordpiece()
GPT2 = tiny.byte_bpe(None, "<|endoftext|>")
LLAMA = tiny.byte_bpe("<s>", "</s>")
CLS, SEP = BERT.cls_token_id, BERT.sep_token_id
TEXTS = [
    {"text": "the cat sat on the mat", "label": "cat"},
    {"text": "the lazy dog sat on the log", "label": "dog"},
    {"text": "a quick brown fox jumps", "label": "dog"},
    {"text": "good films make people happy", "label": "cat"},
]


def settings_of(
    tmp_path: Path, rows: list[dict[str, Any]], task: str = "causal-lm", method: str = "dpo", **data: Any
) -> Settings:
    """Settings for these rows, in a file of their own, without evaluation unless it is asked for. method: of
    preferences."""
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"files": [str(file)], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0} | data
    preference = {"preference": {"method": method}} if task == "preference" else {}
    return Settings.model_validate({"task": task, "data": data} | preference)


def tokenized(
    tmp_path: Path, rows: Any, task: str = "causal-lm", tokenizer: Any = GPT2, max_length: Any = 16, **data: Any
) -> Any:
    return prepare(settings_of(tmp_path, rows, task, **data), tokenizer, max_length, lambda _: None)


def refusal(kind: type[Exception], tmp_path: Path, *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        tokenized(tmp_path, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows_of(rows: Any) -> list[list[int]]:
    return [rows.input_ids[start:stop].tolist() for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]


def bare(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a text without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def texts(*values: str | None) -> list[dict[str, Any]]:
    return [{"text": value} for value in values]
