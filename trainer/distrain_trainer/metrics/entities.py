"""Entities in sequences of tags, and how well they are found: seqeval's numbers, which are those of conlleval.

A tag is O, or a mark and a type: B-PER begins an entity, I-PER is inside of one, E- ends it and S- is one alone (L- and
U- in other schemes). A sequence that breaks the scheme is read leniently: an I- without a beginning begins an entity.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from distrain_trainer.metrics.metrics import averages

TAG = re.compile("O|[BIESLU]-.+")
MARKS = {"L": "E", "U": "S"}

Entity = tuple[str, int, int]
"""Type, first word and last word."""


def are_marked(names: Sequence[str]) -> bool:
    """Whether tags mark entities, as those of BIO do, and do not stand for themselves, as parts of speech."""
    return all(TAG.fullmatch(name) for name in names) and any(name != "O" for name in names)


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of one sequence."""
    before, type_before, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, kind = MARKS.get(tag[0], tag[0]), tag[2:]
        changes = kind != type_before
        if before in "ES" or (before in "BI" and (mark in "BSO" or changes)):
            yield type_before, first, place - 1
        if mark in "BS" or (mark in "IE" and (before in "OES" or changes)):
            first = place
        before, type_before = mark, kind


def entity_counts(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The types that occur, sorted; how often each was predicted rightly, predicted, and is there: int64 [types].

    predictions, references: tags of sequences, as many of one as of the other. Right is an entity of the same type from
    the same first to the same last word.
    """
    right, predicted, true = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(predictions, references, strict=True):
        found, wanted = set(entities(one)), set(entities(other))
        right.update(kind for kind, _, _ in found & wanted)
        predicted.update(kind for kind, _, _ in found)
        true.update(kind for kind, _, _ in wanted)
    types = sorted(predicted.keys() | true.keys())
    right_of, predicted_of, true_of = (
        np.asarray([counts[kind] for kind in types], np.int64) for counts in (right, predicted, true)
    )
    return types, right_of, predicted_of, true_of


def entity_metrics(right: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """precision, recall, f1 over all entities, and f1_macro, the mean over types; from `entity_counts`."""
    found = averages(right, predicted, true)
    return {score: found[f"{score}_micro"] for score in ("precision", "recall", "f1")} | {"f1_macro": found["f1_macro"]}
