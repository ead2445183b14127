"""Rows to evaluate on, where the data has none of its own: some of the training rows, drawn once."""

from collections.abc import Callable

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.data.table import Part
from distrain_trainer.errors import DataError
from distrain_trainer.tasks.labels import Labels

SPLIT_SEED = 42


def hold_out(
    part: Part, fraction: float, labels: Labels | None, stratified: bool, say: Callable[[str], None]
) -> tuple[Part, Part]:
    """Divides rows into the same two parts as datasets' train_test_split, each in the order of the rows.

    labels: of the rows, None where they have none. stratified: each label's rows are divided alike, where there are
    enough. A label all of whose rows would be held out keeps its first row in training. It works on row numbers alone:
    train_test_split iterates over a column, which takes minutes for millions of rows.
    """
    from datasets.utils.stratify import stratified_shuffle_split_generate_indices

    held_out = int(np.ceil(fraction * len(part)))
    if len(part) - held_out < 1:
        of_text = any(".txt" in file.suffixes for file in part.source.files)
        raise DataError(
            f"{len(part)} row{'s' * (len(part) > 1)} cannot be divided by data.evaluation_fraction = {fraction}; add "
            "rows, set it to 0 or name data.evaluation_files"
            + (", or set data.text_unit: a row of a text file is a paragraph unless it is line" if of_text else "")
        )
    generator = np.random.default_rng(SPLIT_SEED)
    strata = labels.values if labels is not None and stratified else [""]
    names, codes, counts = np.unique(strata, return_inverse=True, return_counts=True)
    why = ""
    if len(names) > 1 and counts.min() < 2:
        rare = names[counts < 2].tolist()
        why = f"label {a_few(rare)} has one row only" if len(rare) == 1 else f"labels {a_few(rare)} have one row only"
    elif len(names) > 1 and min(held_out, len(part) - held_out) < len(names):
        why = f"{held_out} rows for {len(names)} labels"
    if why or len(codes) < len(part):
        permutation = generator.permutation(len(part))
        evaluation, train = permutation[:held_out], permutation[held_out:]
    else:
        divided = stratified_shuffle_split_generate_indices(codes, len(part) - held_out, held_out, rng=generator)
        train, evaluation = next(divided)
    train, evaluation = np.sort(train), np.sort(evaluation)
    kept = np.zeros(0, np.int64)
    if stratified:
        first = evaluation[np.unique(codes[evaluation], return_index=True)[1]]
        kept = first[~np.isin(codes[first], codes[train])]
    elif labels is not None:
        kept = _only_rows(labels, train, evaluation)
    train, evaluation = np.union1d(train, kept), np.setdiff1d(evaluation, kept)
    if labels is not None and not len(evaluation):
        raise DataError(
            f"none of the {len(labels.names)} labels has rows to spare for evaluation; check that data.label_column is "
            "the column of the classes, set data.evaluation_fraction to 0 or name data.evaluation_files"
        )
    if why:
        say(f"evaluation rows are drawn without stratification: {why}")
    if len(kept):
        rows = "1 row" if len(kept) == 1 else f"{len(kept):,} rows"
        say(f"{rows} of those drawn for evaluation are trained on instead: no other row has their label")
    return part.select(train), part.select(evaluation)


def _only_rows(labels: Labels, train: np.ndarray, evaluation: np.ndarray) -> np.ndarray:
    """Of the rows to evaluate on those that training needs: the first with a label that it would not show."""
    shown = {name for row in train.tolist() for name in labels.of(row)}
    kept = []
    for row in evaluation.tolist():
        if fresh := set(labels.of(row)) - shown:
            shown |= fresh
            kept.append(row)
    return np.asarray(kept, np.int64)
