"""Where rows come from: local files, a folder of save_to_disk, the Hub, or the sample.

`locate` is cheap and says what the data is by its content; `read` opens it as datasets. So a run whose tokens are
cached never imports datasets.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.data.conversations import ASKED_AND_SAID, MESSAGES
from distrain_trainer.data.files import SPLIT_OF, describe, divide, hash_files, listed, open_files, resolve_files
from distrain_trainer.data.holding_out import hold_out
from distrain_trainer.data.sample import write_sample
from distrain_trainer.data.table import Part, Source
from distrain_trainer.errors import DataError, SettingsError, first_line
from distrain_trainer.hub.commits import commit_of, is_reachable
from distrain_trainer.hub.errors import hub_error
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Data
from distrain_trainer.tasks.labels import LabelColumn
from distrain_trainer.tasks.table import TASKS

EVALUATION_SPLITS = ("validation", "evaluation", "test", "dev")


@dataclass(frozen=True)
class Origin:
    """What the data is.

    description: for people, such as `docs.jsonl, 3.1 MB` or `glue (sst2) at 1a2b3c4`.
    fingerprint: 64 hex digits that follow from the content: the bytes of the files in order, whatever their names
    and dates, or the Hub's name, configuration and commit.
    commit: of a data set on the Hub, else None. files, evaluation_files: resolved, sorted, those of no bytes left
    out; one folder for save_to_disk. divided: which files are which split, where their names say so, else empty. mix:
    several data sets as `data.mix` has them, at their commits.
    """

    description: str
    fingerprint: str
    commit: str | None = None
    files: tuple[Path, ...] = ()
    evaluation_files: tuple[Path, ...] = ()
    divided: str = ""
    mix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The rows to train on and those to evaluate on."""

    train: Part
    evaluation: Part | None


def cache_folder(data: Data) -> Path:
    """The folder for everything that is made from data and can be made again."""
    if data.cache is not None:
        return Path(data.cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distrain"


def is_sample(data: Data) -> bool:
    """Whether the data is the sample: asked for by its name, or nothing else is named."""
    return data.name == "sample" or (data.name is None and data.files is None and data.mix is None)


def locate(data: Data) -> Origin:
    """Finds the data and hashes it, without opening it as rows.

    Raises DataError for files that are not there, of no format or empty, and for whatever the Hub answers.
    """
    if is_sample(data):
        sample = cache_folder(data) / f"sample-{platform.python_version()}.jsonl"
        try:
            count = write_sample(sample)
        except OSError as error:
            raise SettingsError(
                f"the cache {sample.parent} cannot be written ({error.strerror}); mount it writable, or set data.cache "
                "to a folder that can be written"
            ) from error
        described = f"sample ({count:,} docstrings of Python {platform.python_version()})"
        return Origin(described, hash_files([sample]), files=(sample,))
    if data.files is not None:
        files, evaluation_files, told = _divided(data)
        described = describe(files)
        fingerprint = hash_files(files)
        if evaluation_files:
            described += f"; evaluation: {describe(evaluation_files)}"
            fingerprint = hashlib.sha256((fingerprint + hash_files(evaluation_files)).encode()).hexdigest()
        return Origin(
            described, fingerprint, files=tuple(files), evaluation_files=tuple(evaluation_files), divided=told
        )
    assert data.name is not None
    if Path(data.name).expanduser().exists():
        raise DataError(f"data.name {data.name} is a path here, but names a data set on the Hub; use data.files")
    commit = commit_of("dataset", data.name, data.revision)
    configuration = f" ({data.config})" if data.config else ""
    fingerprint = hashlib.sha256(json.dumps([data.name, data.config, commit]).encode()).hexdigest()
    return Origin(f"{data.name}{configuration} at {commit[:7]}", fingerprint, commit=commit)


def _divided(data: Data) -> tuple[list[Path], list[Path], str]:
    """The files to train on, those to evaluate on, and a sentence where their names have divided them.

    Raises SettingsError where a file is both.
    """
    assert data.files is not None
    files = resolve_files(data.files, "data.files")
    evaluation_files = resolve_files(data.evaluation_files or [], "data.evaluation_files")
    told = ""
    splits = divide(files) if data.split_by_name and data.split_column is None else {"train": files}
    if len(splits) > 1:
        trained, evaluated = data.train_split, data.evaluation_split or "validation"
        for setting, name in (("data.train_split", trained), ("data.evaluation_split", data.evaluation_split)):
            if name is not None and SPLIT_OF.get(name) not in splits:
                raise DataError(f"{setting} '{name}' is not a split of the files; the splits are {a_few(splits)}")
        files = splits.pop(SPLIT_OF[trained])
        told = f"files are splits by their names: {listed(files)} to train on"
        if data.evaluation_files is None and SPLIT_OF[evaluated] in splits:
            evaluation_files = splits.pop(SPLIT_OF[evaluated])
            told += f", {listed(evaluation_files)} to evaluate on"
        if left := [file for others in splits.values() for file in others]:
            told += f", {listed(left)} left alone (data.split_by_name: false trains on all)"
    same = {file.resolve() for file in files} & {file.resolve() for file in evaluation_files}
    if same:
        raise SettingsError(
            f"{min(same)} is named by data.files and by data.evaluation_files; evaluate on rows that are not trained on"
        )
    return files, evaluation_files, told


def read(settings: Settings, origin: Origin, folder: Path, say: Callable[[str], None]) -> Splits:
    """Opens the data and splits it as the settings say.

    folder: where the rows of local files are kept; they are mapped from it, so it must outlive them, and can be deleted
    afterwards. say: takes a sentence for people.
    Raises DataError for what cannot be read, and for splits and columns that are not there.
    """
    data, labelled = settings.data, TASKS[settings.task].labelled
    if origin.divided:
        say(origin.divided)
    with quiet_datasets():
        sources = open_splits(settings, origin, folder)
        for source in sources.values():
            tell_dropped(source, say)
        splits = {name: Part.of(source) for name, source in sources.items()}
        split_column = "split" if is_sample(data) else data.split_column
        if split_column is not None:
            splits = _by_column(splits, split_column)
        train = _pick(splits, data.train_split, "data.train_split")
        if labelled:
            _check_columns(train, settings)
            train = _with_labels(train, settings, say)
        evaluation = _evaluation(settings, origin, splits, folder, say)
        if evaluation is not None and labelled:
            evaluation = _with_labels(evaluation, settings, say)
        fraction = held_out(settings)
        if evaluation is None and fraction > 0:
            labels = labelled.read(label_column(train, settings)) if labelled else None
            train, evaluation = hold_out(train, fraction, labels, labelled is not None and labelled.single, say)
    return Splits(train, evaluation and evaluation.named("evaluation"))


def _evaluation(
    settings: Settings, origin: Origin, splits: dict[str, Part], folder: Path, say: Callable[[str], None]
) -> Part | None:
    """The rows of the files or the split to evaluate on; None where there are none."""
    data = settings.data
    if origin.evaluation_files:
        opened = open_files(origin.evaluation_files, data, used_columns(settings), folder / "evaluation")
        if isinstance(opened, dict):
            raise DataError(
                f"data.evaluation_files: {origin.evaluation_files[0]} holds several splits; name the folder of one"
            )
        if not len(opened.rows):
            raise DataError(f"data.evaluation_files: {listed(origin.evaluation_files)} has no rows")
        tell_dropped(opened, say)
        return Part.of(opened, "evaluation")
    if data.evaluation_split is not None:
        return _pick(splits, data.evaluation_split, "data.evaluation_split").named("evaluation")
    for name in EVALUATION_SPLITS:
        if name in splits and name != data.train_split:
            part = _pick(splits, name, "data.evaluation_split").named("evaluation")
            if not settings.facts.labelled or _is_labelled(part, settings):
                return part
            say(f"split '{name}' has no labels and is left alone")
    return None


def tell_dropped(source: Source, say: Callable[[str], None]) -> None:
    """Says which rows of files were left out."""
    if source.dropped.count:
        say(source.dropped.sentence)


def label_column(part: Part, settings: Settings) -> LabelColumn:
    """The column of the labels; DataError where there is none."""
    data = settings.data
    if data.label_columns is not None:
        several = [part.column(name, (), "data.label_columns") for name in data.label_columns]
        values = [list(row) for row in zip(*(part.values(name) for name in several), strict=True)]
        return LabelColumn(", ".join(several), part.name, values, tuple(several), part.place, flags=True)
    name = part.column(data.label_column, settings.facts.label_columns, "data.label_column")
    feature = part.source.rows.features[name]
    names = getattr(getattr(feature, "feature", feature), "names", None)  # of a ClassLabel, or of a list of them
    return LabelColumn(
        name, part.name, part.values(name), None if names is None else tuple(names), part.place, data.unlabelled
    )


def text_columns(part: Part, settings: Settings) -> dict[str, str]:
    """The column of the texts, and that of second texts or of targets where there are some, by the settings that name
    them; DataError where there is none."""
    data, facts = settings.data, settings.facts
    wanted = {"data.text_column": (data.text_column, facts.text_columns)}
    if data.text_pair_column is not None:
        wanted["data.text_pair_column"] = data.text_pair_column, ()
    if facts.writes:
        wanted["data.target_column"] = data.target_column, facts.target_columns
    return {setting: part.column(name, candidates, setting) for setting, (name, candidates) in wanted.items()}


def is_tokenized(part: Part, settings: Settings) -> bool:
    """Whether the rows were tokenized before: a column input_ids, where no column of texts is named."""
    named, facts = settings.data.text_column or settings.data.text_pair_column, settings.facts
    return "input_ids" in part.source.columns and named is None and facts.holds != "words" and not facts.writes


def _check_columns(part: Part, settings: Settings) -> None:
    """Raises SettingsError where texts and labels are the same column."""
    if is_tokenized(part, settings):
        return
    *first, last = text_columns(part, settings).values()
    labels = settings.data.label_columns or [label_column(part, settings).name]
    if label := next((name for name in labels if name in (*first, last)), None):
        raise SettingsError(
            f"column '{label}' is both text and label; set data.text_column or data.label_column to another of "
            f"{a_few(part.source.columns)}"
        )
    if last in first:
        raise SettingsError(
            f"column '{last}' is both texts of a pair; set data.text_column to another of {a_few(part.source.columns)}"
        )


def _is_labelled(part: Part, settings: Settings) -> bool:
    """Whether some rows have a label."""
    data = settings.data
    named = data.label_columns or ([data.label_column] if data.label_column else settings.facts.label_columns)
    return bool(set(named) & set(part.source.columns)) and not label_column(part, settings).missing().all()


def _with_labels(part: Part, settings: Settings, say: Callable[[str], None]) -> Part:
    """The rows whose label is not `data.unlabelled`, where that is set."""
    unlabelled = settings.data.unlabelled
    if unlabelled is None:
        return part
    names = np.asarray([str(value) for value in label_column(part, settings).values])
    kept = np.flatnonzero(names != str(unlabelled))
    if len(kept) and len(kept) < len(part):
        say(f"{len(part) - len(kept):,} of {len(part):,} {part.name} rows have no label and are left out")
        return part.select(kept)
    return part


def used_columns(settings: Settings) -> tuple[str, ...]:
    """Names of the columns that a run may use; all others of a file need not be read."""
    data, chat, facts = settings.data, settings.chat, settings.facts
    names: list[str | None] = []
    if facts.holds == "messages":
        names += [
            chat.messages_column,
            chat.tools_column,
            *MESSAGES,
            *sum(ASKED_AND_SAID, ()),
            "input",
            "tools",
            "system",
        ]
    elif facts.compares:
        names += [settings.preference.column(name) for name in ("prompt", *settings.preference.answers)]
    else:
        names += [data.text_column] if data.text_column else [*facts.text_columns, "input_ids", "attention_mask"]
        names.append(data.text_pair_column)
        names += [data.target_column] if data.target_column else facts.target_columns
        names += [data.label_column] if data.label_column else facts.label_columns or ("label", "labels")
        names += data.label_columns or ()
    names.append("split" if is_sample(data) else data.split_column)
    return tuple(dict.fromkeys(filter(None, names)))


def held_out(settings: Settings) -> float:
    """The fraction of the training split to evaluate on where no other rows are there for that."""
    fraction = settings.data.evaluation_fraction
    return settings.facts.evaluation_fraction if fraction is None else fraction


def open_splits(settings: Settings, origin: Origin, folder: Path) -> dict[str, Source]:
    """All splits by name; files without names for their splits are the training split. Raises DataError, ServiceAway.

    folder: as for `read`.
    """
    data = settings.data
    if origin.commit is None:
        opened = open_files(origin.files, data, used_columns(settings), folder / "train")
        return opened if isinstance(opened, dict) else {data.train_split: opened}
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    assert data.name is not None
    try:
        with _from_cache_alone() if not is_reachable() else nullcontext():
            splits = load_dataset(data.name, data.config, revision=origin.commit)
    except DatasetGenerationError as error:
        cause = first_line(error.__cause__ or error)
        raise DataError(
            f"data set {origin.description} cannot be read: {cause}; choose another data.revision"
        ) from error
    except Exception as error:  # see `commit_of`
        listed = re.search(r"(?:Available|available configs): (\[.*\])", str(error))
        if listed:
            what = f"no configuration '{data.config}'" if data.config else "several configurations"
            raise DataError(f"data set {data.name} has {what}; set data.config to one of {listed[1]}") from error
        raise hub_error(error, "data set", data.name, origin.commit) from error
    for rows in splits.values():
        # Where the Hub is out of reach datasets takes whatever commit its cache holds.
        if any(origin.commit not in Path(file["filename"]).parts for file in rows.cache_files):
            raise DataError(
                f"the Hub cannot be reached and the cache holds another commit of data set {data.name} than "
                f"{origin.commit}; try again with a network"
            )
    return {
        name: Source(f"split '{name}' of {data.name}", rows, tuple(rows.column_names), {})
        for name, rows in splits.items()
    }


def _by_column(splits: dict[str, Part], column: str) -> dict[str, Part]:
    """Divides rows by the values of a column, keeping their order."""
    if len(splits) > 1:
        raise DataError(f"data.split_column is '{column}' but the data has splits already: {a_few(splits)}; remove it")
    (part,) = splits.values()
    values = np.asarray([str(value) for value in part.values(part.column(column, (), "data.split_column"))])
    names = dict.fromkeys(values.tolist())
    return {name: part.select(np.flatnonzero(values == name)) for name in names}


def _pick(splits: dict[str, Part], name: str, setting: str) -> Part:
    if name not in splits:
        raise DataError(f"{setting} '{name}' is not a split of the data; the splits are {a_few(splits)}")
    if not len(splits[name]):
        raise DataError(f"split '{name}' has no rows; choose another {setting} among {a_few(splits)}")
    return splits[name]


@contextmanager
def _from_cache_alone() -> Iterator[None]:
    """Keeps datasets from asking a Hub that does not answer, six times for each file."""
    import datasets

    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


@contextmanager
def quiet_datasets() -> Iterator[None]:
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
