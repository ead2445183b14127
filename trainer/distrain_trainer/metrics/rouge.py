"""ROUGE and exact match of texts that a model has written: the numbers of the package rouge_score, without stemming."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

WORDS = re.compile(r"[a-z0-9]+")


def written_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """rouge1, rouge2, rougeL, the mean F-measures over texts, and exact_match, the fraction that equals its reference
    but for white space at its ends.

    predictions, references: one text a row, at least one.
    """
    words = [(words_of(one), words_of(other)) for one, other in zip(predictions, references, strict=True)]
    exact = [one.strip() == other.strip() for one, other in zip(predictions, references, strict=True)]
    return {
        "rouge1": float(np.mean([shared(*pair, 1) for pair in words])),
        "rouge2": float(np.mean([shared(*pair, 2) for pair in words])),
        "rougeL": float(np.mean([in_order(*pair) for pair in words])),
        "exact_match": float(np.mean(exact)),
    }


def words_of(text: str) -> list[str]:
    """The words that ROUGE counts: runs of the letters a to z and of digits, in small letters."""
    return WORDS.findall(text.lower())


def shared(predicted: Sequence[str], true: Sequence[str], size: int) -> float:
    """The F-measure of the runs of `size` words that two texts share."""
    ours, theirs = (
        Counter(zip(*(words[n:] for n in range(size)), strict=False)) for words in (list(predicted), list(true))
    )
    return f_measure((ours & theirs).total(), ours.total(), theirs.total())


def in_order(predicted: Sequence[str], true: Sequence[str]) -> float:
    """The F-measure of the longest sequence of words that two texts have in the same order, with others between."""
    lengths = [0] * (len(true) + 1)
    for word in predicted:
        before = 0  # what `lengths` was one place to the left, before this word
        for place, other in enumerate(true, 1):
            before, lengths[place] = (
                lengths[place],
                before + 1 if word == other else max(lengths[place], lengths[place - 1]),
            )
    return f_measure(lengths[-1], len(predicted), len(true))


def f_measure(hits: int, predicted: int, true: int) -> float:
    """The harmonic mean of hits / predicted and hits / true; 0 where there are no hits."""
    return 2 * hits / (predicted + true) if hits else 0.0
