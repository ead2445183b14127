"""Rows to evaluate on, where the data has none of its own: some of the training rows, drawn once."""

from collections.abc import Callable

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.data.table import Part
from distrain_trainer.errors import DataError

SPLIT_SEED = 42


def hold_out(part: Part, fraction: float, labels: list[str] | None, say: Callable[[str], None]) -> tuple[Part, Part]:
    """Divides rows into the same two parts as datasets' train_test_split, each in the order of the rows.

    A class all of whose rows would be held out keeps its first row in training. It works on row numbers alone:
    train_test_split iterates over a column, which takes minutes for millions of rows. labels: one a row, to divide each
    label's rows alike; None for all rows together.
    """
    from datasets.utils.stratify import stratified_shuffle_split_generate_indices

    held_out = int(np.ceil(fraction * len(part)))
    too_few = (
        f"{len(part)} row{'s' * (len(part) > 1)} cannot be divided by data.evaluation_fraction = {fraction}; add rows, "
        "set it to 0 or name data.evaluation_files"
    )
    if len(part) - held_out < 1:
        raise DataError(too_few)
    generator = np.random.default_rng(SPLIT_SEED)
    names, codes, counts = np.unique(labels or [""], return_inverse=True, return_counts=True)
    why = ""
    if labels is not None and counts.min() < 2:
        rare = names[counts < 2].tolist()
        why = f"label {a_few(rare)} has one row only" if len(rare) == 1 else f"labels {a_few(rare)} have one row only"
    elif labels is not None and min(held_out, len(part) - held_out) < len(names):
        why = f"{held_out} rows for {len(names)} labels"
    if labels is None or why:
        permutation = generator.permutation(len(part))
        evaluation, train = permutation[:held_out], permutation[held_out:]
    else:
        divided = stratified_shuffle_split_generate_indices(codes, len(part) - held_out, held_out, rng=generator)
        train, evaluation = next(divided)
    train, evaluation = np.sort(train), np.sort(evaluation)
    moved = 0
    if labels is not None:
        first = evaluation[np.unique(codes[evaluation], return_index=True)[1]]
        kept = first[~np.isin(codes[first], codes[train])]
        train, evaluation, moved = np.union1d(train, kept), np.setdiff1d(evaluation, kept), len(kept)
        if not len(evaluation):
            raise DataError(
                f"none of the {len(names)} labels has rows to spare for evaluation; check that data.label_column is "
                "the column of the classes, set data.evaluation_fraction to 0 or name data.evaluation_files"
            )
    if why:
        say(f"evaluation rows are drawn without stratification: {why}")
    if moved:
        rows = "1 row" if moved == 1 else f"{moved:,} rows"
        say(f"{rows} of those drawn for evaluation are trained on instead: no other row has their label")
    return part.select(train), part.select(evaluation)
