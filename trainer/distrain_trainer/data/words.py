"""From words to tokens: a text that was split into words, each of which is predicted at its first token.

Words are joined by spaces and tokenized as one text, as the model read texts when it was pretrained, whatever its
tokenizer; a token is of the word that its last character is in.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distrain_trainer.data.text import Text, cleaned
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_words(
    rows: Sequence[Sequence[str]],
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    tags: Sequence[np.ndarray] | None = None,
) -> Iterator[Text]:
    """Each row's tokens; the target of a word's first token is its tag, or its number where there are no tags.

    tags: int [words] of each row. A word without a token, such as an empty one, is no target.
    """
    if not rows:  # which tokenizers do not take
        return
    rows = [[cleaned(word, settings) for word in words] for words in rows]
    encoded = tokenizer(
        [" ".join(words) for words in rows],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    for number, words in enumerate(rows):
        offsets = np.asarray(encoded["offset_mapping"][number], np.int64).reshape(-1, 2)
        targets = np.full(len(offsets), IGNORE_INDEX)
        word_of = words_of(words, offsets)
        first = np.unique(word_of, return_index=True)[1]
        first = first[word_of[first] >= 0]
        targets[first] = word_of[first] if tags is None else tags[number][word_of[first]]
        yield Text(encoded["input_ids"][number], targets=targets.tolist())


def words_of(words: Sequence[str], offsets: np.ndarray) -> np.ndarray:
    """The number of the word that each token is of, -1 of none: int64 [tokens].

    offsets: int64 [tokens, 2], first character of a token in the words joined by spaces, and the one after its last.
    """
    lengths = np.asarray([len(word) for word in words], np.int64)
    starts = np.cumsum(lengths + 1) - lengths - 1
    last = offsets[:, 1] - 1
    found = np.searchsorted(starts, last, side="right") - 1
    inside = (offsets[:, 1] > offsets[:, 0]) & (found >= 0)
    inside[inside] = last[inside] < (starts + lengths)[found[inside]]
    return np.where(inside, found, -1)
