"""The rows that contenders train on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from distrain_trainer.data.tokens import Tokenized, prepare
from distrain_trainer.models.load import load_config, load_tokenizer, longest_row, resolve
from distrain_trainer.settings.model import Settings

ROWS, LABELS = 8000, 12


def synthetic(scratch: Path, seed: int) -> dict[str, Any]:
    """Settings of a run on synthetic rows, which are written to `scratch`; nothing is evaluated or saved on the way.

    Tokens, not texts, so that all contenders have exactly these lengths: lognormal, median 70, sigma 0.8, clipped to
    8-512.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / f"rows-{seed}.jsonl"
    generator = np.random.Generator(np.random.PCG64(seed))
    lengths = np.clip(np.round(generator.lognormal(np.log(70), 0.8, ROWS)), 8, 512).astype(int)
    with file.open("w") as rows:
        for length, label in zip(lengths, generator.integers(LABELS, size=ROWS), strict=True):
            tokens = [101, *generator.integers(1000, 30000, length - 2).tolist(), 102]
            rows.write(json.dumps({"input_ids": tokens, "label": f"class {label:02}"}) + "\n")
    return {
        "model": {"name": "sample"},
        "data": {"files": str(file), "max_length": 512, "evaluation_fraction": 0, "cache": str(scratch / "cache")},
        "checkpoint": {"every_minutes": None},
        "seed": seed,
    }


def token_rows(settings: Settings) -> tuple[PreTrainedTokenizerBase, Tokenized]:
    """The tokenizer and the rows that distrain trains on with these settings."""
    name, revision = resolve(settings.model)
    tokenizer = load_tokenizer(name, revision)
    max_length = longest_row(settings, load_config(name, revision), tokenizer)
    return tokenizer, prepare(settings, tokenizer, max_length, say=lambda text: None)
