"""Where rows come from: local files, a folder of save_to_disk, the Hub, or the sample.

`locate` is cheap and says what the data is by its content; `read` opens it as datasets. So a run whose tokens are
cached never imports datasets.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distrain_trainer.data.files import describe, hash_files, listed, open_files, resolve_files
from distrain_trainer.data.labels import read_labels
from distrain_trainer.data.sample import write_sample
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hub.errors import first_line, hub_sentence
from distrain_trainer.settings.sections import Data

if TYPE_CHECKING:
    from datasets import Dataset

TEXT_COLUMNS = ("text", "sentence", "content")
LABEL_COLUMNS = ("label", "labels")
EVALUATION_SPLITS = ("validation", "evaluation", "test", "dev")
SPLIT_SEED = 42


@dataclass(frozen=True)
class Origin:
    """What the data is.

    description: for people, such as `docs.jsonl, 3.1 MB` or `glue (sst2) at 1a2b3c4`.
    fingerprint: 64 hex digits that follow from the content: the bytes of the files in order, whatever their names
    and dates, or the Hub's name, configuration and commit.
    commit: of a data set on the Hub, else None. files, evaluation_files: resolved, sorted, those of no bytes left
    out; one folder for save_to_disk.
    """

    description: str
    fingerprint: str
    commit: str | None = None
    files: tuple[Path, ...] = ()
    evaluation_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The rows to train on and those to evaluate on."""

    train: "Dataset"
    evaluation: "Dataset | None"


def cache_folder(data: Data) -> Path:
    """The folder for everything that is made from data and can be made again."""
    if data.cache is not None:
        return Path(data.cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distrain"


def is_sample(data: Data) -> bool:
    """Whether the data is the sample: asked for by its name, or nothing else is named."""
    return data.name == "sample" or (data.name is None and data.files is None)


def locate(data: Data) -> Origin:
    """Finds the data and hashes it, without opening it as rows.

    Raises DataError for files that are not there, of no format or empty, and for whatever the Hub answers.
    """
    if is_sample(data):
        sample = cache_folder(data) / f"sample-{platform.python_version()}.jsonl"
        try:
            count = write_sample(sample)
        except OSError as error:
            where = f"{sample.parent} cannot be written ({error.strerror})"
            raise SettingsError(f"the cache {where}; set data.cache") from error
        described = f"sample ({count:,} docstrings of Python {platform.python_version()})"
        return Origin(described, hash_files([sample]), files=(sample,))
    if data.files is not None:
        files = resolve_files(data.files, "data.files")
        evaluation_files = resolve_files(data.evaluation_files or [], "data.evaluation_files")
        described = describe(files)
        fingerprint = hash_files(files)
        if evaluation_files:
            described += f"; evaluation: {describe(evaluation_files)}"
            fingerprint = hashlib.sha256((fingerprint + hash_files(evaluation_files)).encode()).hexdigest()
        return Origin(described, fingerprint, files=tuple(files), evaluation_files=tuple(evaluation_files))
    assert data.name is not None
    if Path(data.name).expanduser().exists():
        raise DataError(f"data.name {data.name} is a path here, but names a data set on the Hub; use data.files")
    commit = _commit(data.name, data.revision)
    configuration = f" ({data.config})" if data.config else ""
    fingerprint = hashlib.sha256(json.dumps([data.name, data.config, commit]).encode()).hexdigest()
    return Origin(f"{data.name}{configuration} at {commit[:7]}", fingerprint, commit=commit)


def _commit(name: str, revision: str | None) -> str:
    """The commit of a data set on the Hub; one that is given needs no request."""
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=30).sha
    except Exception as error:  # the HTTP client that huggingface_hub uses, and so its errors, change with its version
        raise DataError(hub_sentence(error, "data set", name, revision)) from error
    assert commit is not None
    return commit


def read(data: Data, origin: Origin, task: str, folder: Path, say: Callable[[str], None]) -> Splits:
    """Opens the data and splits it as the settings say.

    folder: where datasets keeps what it makes of local files; the rows are mapped from it, so it must outlive them,
    and can be deleted afterwards. say: takes a sentence for people.
    Raises DataError for what cannot be read, and for splits and columns that are not there.
    """
    with _quiet():
        splits = _open(data, origin, task, folder)
        split_column = "split" if is_sample(data) else data.split_column
        if split_column is not None:
            splits = _by_column(splits, split_column)
        train = _pick(splits, data.train_split, "data.train_split")
        evaluation = None
        if origin.evaluation_files:
            opened = open_files(origin.evaluation_files, data, folder / "evaluation", exact=task == "chat")
            if isinstance(opened, dict):
                raise DataError(
                    f"data.evaluation_files: {origin.evaluation_files[0]} holds several splits; name the folder of one"
                )
            evaluation = opened
            if not len(evaluation):
                raise DataError(f"data.evaluation_files: {listed(origin.evaluation_files)} has no rows")
        elif data.evaluation_split is not None:
            evaluation = _pick(splits, data.evaluation_split, "data.evaluation_split")
        else:
            there = [name for name in EVALUATION_SPLITS if name in splits and name != data.train_split]
            if there:
                evaluation = _pick(splits, there[0], "data.evaluation_split")
        fraction = held_out(data, task)
        if evaluation is None and fraction > 0:
            labels = None
            if task == "sequence-classification":
                column = find_column(train, data.label_column, LABEL_COLUMNS, "data.label_column")
                labels = read_labels(train, column, "training")[0]
            train, evaluation = _hold_out(train, fraction, labels, say)
    return Splits(train, evaluation)


def held_out(data: Data, task: str) -> float:
    """The fraction of the training split to evaluate on where no other rows are there for that."""
    if data.evaluation_fraction is None:
        return 0.2 if task == "chat" else 0.1
    return data.evaluation_fraction


def find_column(rows: "Dataset", wanted: str | None, candidates: Sequence[str], setting: str) -> str:
    """The column that a setting names, or the first candidate that is there; DataError lists the columns."""
    columns = rows.column_names
    there = "the columns are " + ", ".join(map(repr, columns))
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{setting} '{wanted}' is not a column of the data; {there}")
        return wanted
    found = next((name for name in candidates if name in columns), None)
    if found is None:
        raise DataError(f"the data has no column {' or '.join(candidates)}; {there}: set {setting} to one of them")
    return found


def _open(data: Data, origin: Origin, task: str, folder: Path) -> "dict[str, Dataset]":
    """All splits by name; files without names for their splits are the training split."""
    if origin.commit is None:
        opened = open_files(origin.files, data, folder / "train", exact=task == "chat")
        return opened if isinstance(opened, dict) else {data.train_split: opened}
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    assert data.name is not None
    try:
        splits = load_dataset(data.name, data.config, revision=origin.commit)
    except DatasetGenerationError as error:
        cause = first_line(error.__cause__ or error)
        raise DataError(
            f"data set {origin.description} cannot be read: {cause}; choose another data.revision"
        ) from error
    except Exception as error:  # see `_commit`
        listed = re.search(r"(?:Available|available configs): (\[.*\])", str(error))
        if listed:
            what = f"no configuration '{data.config}'" if data.config else "several configurations"
            raise DataError(f"data set {data.name} has {what}; set data.config to one of {listed[1]}") from error
        raise DataError(hub_sentence(error, "data set", data.name, origin.commit)) from error
    for rows in splits.values():
        # Where the Hub is out of reach datasets takes whatever commit its cache holds.
        if any(origin.commit not in Path(file["filename"]).parts for file in rows.cache_files):
            raise DataError(
                f"the Hub cannot be reached and the cache holds another commit of data set {data.name} than "
                f"{origin.commit}; try again with a network"
            )
    return dict(splits)


def _by_column(splits: "dict[str, Dataset]", column: str) -> "dict[str, Dataset]":
    """Divides rows by the values of a column, keeping their order."""
    if len(splits) > 1:
        raise DataError(
            f"data.split_column is '{column}' but the data has splits already: {_quoted(splits)}; remove it"
        )
    (rows,) = splits.values()
    find_column(rows, column, (), "data.split_column")
    values = np.asarray([str(value) for value in rows.select_columns(column)[:][column]])
    names = dict.fromkeys(values.tolist())
    return {name: rows.select(np.flatnonzero(values == name)) for name in names}


def _pick(splits: "dict[str, Dataset]", name: str, setting: str) -> "Dataset":
    if name not in splits:
        raise DataError(f"{setting} '{name}' is not a split of the data; the splits are {_quoted(splits)}")
    if not len(splits[name]):
        raise DataError(f"split '{name}' has no rows; choose another {setting} among {_quoted(splits)}")
    return splits[name]


def _quoted(names: "dict[str, Dataset]") -> str:
    return ", ".join(map(repr, names))


def _hold_out(
    rows: "Dataset", fraction: float, labels: list[str] | None, say: Callable[[str], None]
) -> "tuple[Dataset, Dataset]":
    """Divides rows into the same two parts as datasets' train_test_split, each in the order of the rows.

    It works on row numbers alone: train_test_split iterates over a column, which takes minutes for millions of rows.
    """
    from datasets.utils.stratify import stratified_shuffle_split_generate_indices

    held_out = int(np.ceil(fraction * len(rows)))
    if len(rows) - held_out < 1:
        raise DataError(
            f"{len(rows)} rows cannot be divided by data.evaluation_fraction = {fraction}; add rows, set it to 0 or "
            "name data.evaluation_files"
        )
    classes = None
    if labels is not None:
        names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if counts.min() < 2:
            rare = names[counts.argmin()]
            say(f"evaluation rows are drawn without stratification: label '{rare}' has one row only")
        elif min(held_out, len(rows) - held_out) < len(names):
            say(f"evaluation rows are drawn without stratification: {held_out} rows for {len(names)} labels")
        else:
            classes = codes
    generator = np.random.default_rng(SPLIT_SEED)
    if classes is None:
        permutation = generator.permutation(len(rows))
        evaluation, train = permutation[:held_out], permutation[held_out:]
    else:
        divided = stratified_shuffle_split_generate_indices(classes, len(rows) - held_out, held_out, rng=generator)
        train, evaluation = next(divided)
    return rows.select(np.sort(train)), rows.select(np.sort(evaluation))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps datasets' bars and log lines out of ours: what matters of them is in our own sentences."""
    import datasets

    bars, level = datasets.utils.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
