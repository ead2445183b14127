"""From a source and its target to tokens: the encoder reads the one, the decoder learns to write the other."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain_trainer.data.text import Shape, Text, cleaned
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distrain_trainer.data.rows import Rows


def tokenize_targets(
    pairs: Sequence[tuple[str, str]], settings: Settings, tokenizer: "PreTrainedTokenizerBase", shape: Shape
) -> Iterator[Text]:
    """The tokens of each source and, behind them, those of its target, each with the special tokens of its own.

    A pair without a source or without a target has no tokens, so that it counts as empty, unless `shape.keep_empty`.
    """
    if not pairs:
        return
    prefix, longest = settings.data.text_prefix or "", settings.data.max_target_length
    sources = [prefix + cleaned(source, settings) for source, _ in pairs]
    targets = [cleaned(target, settings) for _, target in pairs]
    for (source, target), first, second in zip(
        pairs,
        _ids(tokenizer, shape.longest, text=sources),
        _ids(tokenizer, longest, text_target=targets),
        strict=True,
    ):
        if not (source and target) and not shape.keep_empty:
            yield Text([], framed=False)
            continue
        (read, cut), (written, cut_too) = first, second
        yield Text(read + written, framed=False, truncated=cut or cut_too, first=len(read))


def _ids(tokenizer: "PreTrainedTokenizerBase", longest: int, **texts: list[str]) -> Iterator[tuple[list[int], bool]]:
    """The tokens of each text, at most `longest`, and whether some were left out. texts: by the tokenizer's names."""
    ((name, values),) = texts.items()
    whole: Any = tokenizer(**{name: values}, return_attention_mask=False, verbose=False)
    for value, ids in zip(values, whole["input_ids"], strict=True):
        if len(ids) > longest:
            short: Any = tokenizer(**{name: [value]}, truncation=True, max_length=longest)
            yield short["input_ids"][0], True
        else:
            yield ids, False


def target_batch(rows: "Rows", numbers: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """input_ids, attention_mask: int64 [rows, longest source]; labels: int64 [rows, longest target], -100 for none."""
    assert rows.firsts is not None
    sides = rows.sides[numbers]
    read, written = (max(int(longest), 1) for longest in sides.max(0))
    input_ids = np.full((len(numbers), read), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    labels = np.full((len(numbers), written), IGNORE_INDEX, np.int64)
    for i, (number, (first, second)) in enumerate(zip(numbers, sides, strict=True)):
        start = rows.offsets[number]
        input_ids[i, :first] = rows.input_ids[start : start + first]
        attention_mask[i, :first] = 1
        labels[i, :second] = rows.input_ids[start + first : start + first + second]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
