"""Answers of a trained chat model to held-out prompts, for the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from distrain_trainer.data.text import IGNORE_INDEX
from distrain_trainer.data.tokens import Rows
from distrain_trainer.hub.errors import first_line
from distrain_trainer.inference.generate import answer, decode, stop_tokens
from distrain_trainer.inference.trained import load
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import SHARDED

MAX_NEW_TOKENS = 128
"""Most tokens of an answer in the report."""
ROWS_SEARCHED = 1000
"""Rows that are searched for a token that ends an answer."""


def tell_endless(
    settings: Settings, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows, tell: Callable[[str], None]
) -> None:
    """Warns where a chat model will not learn to end its answers, because no row has an end token to learn from."""
    if settings.task != "chat":
        return
    assert rows.labels is not None
    ends = sorted(stop_tokens(model))
    if not np.isin(rows.labels[: rows.offsets[min(len(rows), ROWS_SEARCHED)]], ends).any():
        named = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ends))) or "the tokenizer has none"
        tell(
            f"the model will not learn to end its answers: no trained token ends one ({named}); let chat.template "
            "write one after each assistant turn, inside {% generation %} where it has such tags"
        )


def answer_held_out(
    settings: Settings, folder: Path, rows: Rows | None, tell: Callable[[str], None]
) -> list[dict[str, str]]:
    """{"prompt", "answer", "expected"} of `chat.samples` held-out rows, evenly spread: texts as the model sees them.

    folder: the trained model's. The prompt is everything before the first turn that is learned. The run is finished by
    then, and no error here changes that: it is reported through `tell`, and there are fewer answers.
    """
    if settings.task != "chat" or not settings.chat.samples or rows is None:
        return []
    if settings.strategy.kind in SHARDED:
        tell(f"no answers for the report: the whole model may not fit here; run distrain chat {folder} where it does")
        return []
    assert rows.labels is not None
    found = []
    try:
        trained = load(str(folder), {})
        for number in np.unique(np.linspace(0, len(rows) - 1, settings.chat.samples).astype(int)):
            span = slice(rows.offsets[number], rows.offsets[number + 1])
            ids, learned = rows.input_ids[span].tolist(), rows.labels[span] != IGNORE_INDEX
            first = int(learned.argmax())
            after = first + int(np.append(learned[first:], False).argmin())
            found.append(
                {
                    "prompt": str(trained.tokenizer.decode(ids[:first])),
                    "answer": answer(trained, ids[:first], MAX_NEW_TOKENS, f"evaluation row {number + 1}"),
                    "expected": decode(trained, ids[first:after]),
                }
            )
    except Exception as error:  # mostly memory: the model is there twice
        tell(f"some answers for the report are missing ({first_line(error)}); run distrain chat {folder} instead")
    return found
