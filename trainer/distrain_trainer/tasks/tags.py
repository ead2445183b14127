"""Token classification: each word of a text has a tag, of entities (BIO) or for itself (parts of speech).

A word's tag is that of its first token; what follows of it is no target.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from distrain_trainer.errors import DataError
from distrain_trainer.metrics.entities import are_marked, entities, entity_counts, entity_metrics
from distrain_trainer.metrics.metrics import (
    CLASSIFICATION_METRICS,
    accuracy,
    classification_metrics,
    confusion_matrix,
    count_scores,
)
from distrain_trainer.tasks.labels import LabelColumn, Labels, described, numbers_of, refuse_mixed
from distrain_trainer.tasks.losses import cross_entropy
from distrain_trainer.tasks.sequence import balanced, weigh
from distrain_trainer.tasks.task import Labelled, MetricNames, Names, Scores, Task, label_scores, likeliest, named_head


def read(column: LabelColumn) -> Labels:
    """The names of each row's tags.

    The order of the names is as in sequence classification.
    """
    column.refuse_missing()
    values = column.values
    other = next((row for row, value in enumerate(values) if not isinstance(value, list)), None)
    if other is not None:
        raise DataError(
            f"{column.place(other)} has {described(values[other])} in column '{column.name}', but labels of "
            "token-classification are lists of tags, one a word; name another data.label_column"
        )
    refuse_mixed(column)
    if column.names is not None:
        given = column.names
        return Labels([tuple(given[tag] for tag in value) for value in values], given)
    names = tuple(str(tag) for tag in sorted({tag for value in values for tag in value}))
    return Labels([tuple(str(tag) for tag in value) for value in values], names)


def check(train: Labels, column: str) -> None:
    """Raises DataError where there is nothing to tell apart."""
    if len(seen := train.used()) < 2:
        tags = " ".join(map(repr, seen)) or "none"
        raise DataError(f"every word of the training rows has the same tag in column '{column}' ({tags})")


def encode(values: Sequence[Sequence[str]], names: Names) -> list[np.ndarray]:
    """Tag ids of each row: int32 [words]."""
    numbers = numbers_of(names)
    return [np.asarray([numbers[tag] for tag in value], np.int32) for value in values]


def metric_names(names: Names) -> MetricNames:
    """Those of entities, or of tags that stand for themselves."""
    if are_marked(names):
        return MetricNames(("loss", "precision", "recall", "f1", "f1_macro", "accuracy"), "f1", ("f1", "accuracy"))
    return MetricNames(CLASSIFICATION_METRICS, "accuracy", ("accuracy", "f1_macro"))


def score(predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], names: Names) -> Scores:
    """Of entities where tags mark them; accuracy is that of words. And which tags are taken for which."""
    predicted, true = (np.asarray([*chain.from_iterable(rows)], np.int64) for rows in (predictions, labels))
    matrix = confusion_matrix(predicted, true, len(names))
    details: dict[str, Any] = {"confusion_matrix": {"labels": list(names), "counts": matrix.tolist()}}
    if not are_marked(names):
        return Scores(classification_metrics(predicted, true, len(names)), details)
    as_names = ([[names[tag] for tag in row] for row in rows] for rows in (predictions, labels))
    types, *counts = entity_counts(*as_names)
    details["label_scores"] = label_scores(types, count_scores(*counts), counts[2])
    return Scores(entity_metrics(*counts) | {"accuracy": accuracy(predicted, true)}, details)


def show(logits: np.ndarray, names: Names) -> dict[str, Any]:
    """{"tags", "scores"}: each word's tag and its probability, null where a word has no token; of tags that mark
    entities also {"entities"}: type, first and last word from 0, and the mean probability of their tags.

    logits: [words, tags], NaN for words without a token.
    """
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    best = raised.argmax(-1)
    scores = (raised / raised.sum(-1, keepdims=True))[np.arange(len(best)), best]
    known = np.isfinite(scores)
    tags = [names[tag] if there else None for tag, there in zip(best, known, strict=True)]
    found: dict[str, Any] = {
        "tags": tags,
        "scores": [round(float(value), 6) if there else None for value, there in zip(scores, known, strict=True)],
    }
    if are_marked(names):
        found["entities"] = [
            {"type": kind, "first": first, "last": last, "score": round(float(np.nanmean(scores[first : last + 1])), 6)}
            for kind, first, last in entities([tag or "O" for tag in tags])
        ]
    return found


TAGS = Task(
    metrics=metric_names,
    head=named_head,
    loss=cross_entropy,
    decide=likeliest,
    labelled=Labelled(
        single=False,
        read=read,
        check=check,
        encode=encode,
        score=score,
        show=show,
        balanced=balanced,
        weigh=weigh,
        plain=lambda rows, names: [[names[tag] for tag in row] for row in rows],
    ),
)
