"""From pairs of texts to tokens: the tokenizer joins, marks and shortens them itself, as in the model's pretraining."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distrain_trainer.data.text import Shape, Text, cleaned
from distrain_trainer.settings.model import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_pairs(
    pairs: Sequence[tuple[str, str]], settings: Settings, tokenizer: "PreTrainedTokenizerBase", shape: Shape
) -> Iterator[Text]:
    """Each pair's tokens with special tokens: the tokenizer joins two texts, and shortens the longer one, by itself.

    A pair without any text has no tokens, so that it counts as empty, unless `shape.keep_empty`.
    """
    if not pairs:
        return
    first, second = ([cleaned(pair[n], settings) for pair in pairs] for n in (0, 1))
    encoded: Any = tokenizer(first, second, return_attention_mask=False, verbose=False)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    for number, pair in enumerate(zip(first, second, strict=True)):
        text = Text(ids[number], types=types and types[number], framed=False)
        if not any(pair) and not shape.keep_empty:
            text = Text([], framed=False)
        elif len(text.input_ids) > shape.longest and shape.long_texts == "truncate":
            short: Any = tokenizer(*([text] for text in pair), truncation=True, max_length=shape.longest)
            text = Text(short["input_ids"][0], types=types and short["token_type_ids"][0], framed=False, truncated=True)
        yield text
