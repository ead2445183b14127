"""Where rows come from: local files, a folder of save_to_disk, the Hub, or the sample.

`locate` is cheap and says what the data is by its content; `read` opens it as datasets. So a run whose tokens are
cached never imports datasets.
"""

import glob
import gzip
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from distrain_trainer.data.labels import read_labels
from distrain_trainer.data.sample import write_sample
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hub import first_line, hub_sentence
from distrain_trainer.settings import Data

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
TEXT_COLUMNS = ("text", "sentence", "content")
LABEL_COLUMNS = ("label", "labels")
EVALUATION_SPLITS = ("validation", "evaluation", "test", "dev")
SPLIT_SEED = 42
CSV_OPTIONS = {"keep_default_na": False, "na_values": [""]}
"""Only an empty field is null: None, NA and null are words that a text or a label may well be."""


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
        return Origin(described, _hash_files([sample]), files=(sample,))
    if data.files is not None:
        files = _resolve(data.files, "data.files")
        evaluation_files = _resolve(data.evaluation_files or [], "data.evaluation_files")
        described = _describe(files)
        fingerprint = _hash_files(files)
        if evaluation_files:
            described += f"; evaluation: {_describe(evaluation_files)}"
            fingerprint = hashlib.sha256((fingerprint + _hash_files(evaluation_files)).encode()).hexdigest()
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


def _resolve(patterns: Sequence[str], setting: str) -> list[Path]:
    """The files that names and globs stand for, sorted; or the one folder of save_to_disk."""
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute patterns)
        if not matches:
            what = "matches no file" if glob.has_magic(pattern) else "is not there"
            raise DataError(f"{setting}: {pattern} {what} (looked in {Path.cwd()}); check the path")
        found |= set(matches) if path.exists() else {match for match in matches if match.is_file()}
    files = sorted(found)
    for folder in filter(Path.is_dir, files):
        if len(files) > 1:
            raise DataError(f"{setting}: {folder} is a folder among other files; name one folder, or only files")
        if not any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
            raise DataError(
                f"{setting}: {folder} is a folder that save_to_disk did not write; name the files in it, such as "
                f"{folder}/*.jsonl"
            )
        return files
    formats = {_format(file, setting) for file in files}
    if len(formats) > 1:
        raise DataError(f"{setting} mixes {' and '.join(sorted(formats))} files; name files of one format")
    filled = [file for file in files if file.stat().st_size]
    if files and not filled:
        raise DataError(f"{setting}: {_names(files)} is empty; name files with rows")
    return filled


def _format(file: Path, setting: str) -> str:
    """The reader of a file, by its ending: csv, json, parquet or text."""
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    kind = FORMATS.get(suffix.lower())
    if kind is None or (kind == "parquet" and file.suffix == ".gz"):
        raise DataError(
            f"{setting}: {file} ends in none of {', '.join(FORMATS)} (all but .parquet also with .gz); convert it"
        )
    return kind


def _names(files: Sequence[Path]) -> str:
    """The files' names, the first three of many."""
    shown = ", ".join(str(file) for file in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"


def _parts(files: Sequence[Path]) -> list[Path]:
    """The files that hold the content: those of a save_to_disk folder in place of the folder."""
    if len(files) == 1 and files[0].is_dir():
        inside = sorted(path for path in files[0].rglob("*") if path.is_file())
        return [path for path in inside if not path.name.startswith("cache-")]
    return list(files)


def _describe(files: Sequence[Path]) -> str:
    size = sum(file.stat().st_size for file in _parts(files))
    unit, divisor = next(
        (u, d) for u, d in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1)) if size >= d or d == 1
    )
    name = files[0].name if len(files) == 1 else f"{len(files)} files from {files[0].name}"
    return f"{name}, {size / divisor:.{0 if divisor == 1 else 1}f} {unit}"


def _hash_files(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in _parts(files):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def read(data: Data, origin: Origin, task: str, folder: Path, say: Callable[[str], None]) -> Splits:
    """Opens the data and splits it as the settings say.

    folder: where datasets keeps what it makes of local files; the rows are mapped from it, so it must outlive them,
    and can be deleted afterwards. say: takes a sentence for people.
    Raises DataError for what cannot be read, and for splits and columns that are not there.
    """
    with _quiet():
        splits = _open(data, origin, folder)
        split_column = "split" if is_sample(data) else data.split_column
        if split_column is not None:
            splits = _by_column(splits, split_column)
        train = _pick(splits, data.train_split, "data.train_split")
        evaluation = None
        if origin.evaluation_files:
            opened = _open_files(origin.evaluation_files, data, folder / "evaluation")
            if isinstance(opened, dict):
                raise DataError(
                    f"data.evaluation_files: {origin.evaluation_files[0]} holds several splits; name the folder of one"
                )
            evaluation = opened
            if not len(evaluation):
                raise DataError(f"data.evaluation_files: {_names(origin.evaluation_files)} has no rows")
        elif data.evaluation_split is not None:
            evaluation = _pick(splits, data.evaluation_split, "data.evaluation_split")
        else:
            there = [name for name in EVALUATION_SPLITS if name in splits and name != data.train_split]
            if there:
                evaluation = _pick(splits, there[0], "data.evaluation_split")
        if evaluation is None and data.evaluation_fraction > 0:
            labels = None
            if task == "sequence-classification":
                column = find_column(train, data.label_column, LABEL_COLUMNS, "data.label_column")
                labels = read_labels(train, column, "training")[0]
            train, evaluation = _hold_out(train, data.evaluation_fraction, labels, say)
    return Splits(train, evaluation)


def find_column(rows: "Dataset", wanted: str | None, candidates: Sequence[str], setting: str) -> str:
    """The column that a setting names, or the first candidate that is there; DataError lists the columns."""
    columns = rows.column_names
    there = "the columns are " + ", ".join(map(repr, columns))
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{setting} '{wanted}' is no column of the data; {there}")
        return wanted
    found = next((name for name in candidates if name in columns), None)
    if found is None:
        raise DataError(f"the data has no column {' or '.join(candidates)}; {there}: set {setting} to one of them")
    return found


def _open(data: Data, origin: Origin, folder: Path) -> "dict[str, Dataset]":
    """All splits by name; files without names for their splits are the training split."""
    if origin.commit is None:
        opened = _open_files(origin.files, data, folder / "train")
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


def _open_files(files: Sequence[Path], data: Data, folder: Path) -> "Dataset | dict[str, Dataset]":
    import datasets

    if files[0].is_dir():
        try:
            saved: Dataset | DatasetDict = datasets.load_from_disk(str(files[0]))
        except IndexError as error:
            raise DataError(f"{files[0]} has a split without rows; write it again with save_to_disk") from error
        except (ValueError, OSError, KeyError) as error:
            raise DataError(
                f"{files[0]} cannot be read: {first_line(error)}; write it again with save_to_disk"
            ) from error
        plain = saved.with_format(None)  # a format such as torch is saved too
        return dict(plain) if isinstance(plain, dict) else plain
    kind = _format(files[0], "data.files")
    try:
        if kind == "text":
            return datasets.Dataset.from_generator(
                _texts,
                features=datasets.Features({"text": datasets.Value("string")}),
                gen_kwargs={"files": list(files), "unit": data.text_unit},
                cache_dir=str(folder),
            )
        # Not load_dataset, which reports each use of it over the network, for local files too.
        names: Any = [glob.escape(str(file.absolute())) for file in files]
        if kind == "csv":
            rows = datasets.Dataset.from_csv(names, sep=_separator(files[0]), cache_dir=str(folder), **CSV_OPTIONS)
        elif kind == "json":
            rows = datasets.Dataset.from_json(names, cache_dir=str(folder), parse_agent_traces=False)
        else:
            rows = datasets.Dataset.from_parquet(names, cache_dir=str(folder))
        if "__index_level_0__" in rows.column_names and kind == "csv":
            raise ValueError("rows have more fields than the header")
        if kind == "json":
            rows.data.table.validate(full=True)  # nothing else looks whether strings are UTF-8
    except (datasets.exceptions.DatasetsError, ValueError, OSError, EOFError, StopIteration) as error:
        _blame(files, kind, data.text_unit)
        raise DataError(f"{_names(files)} cannot be read: {_root(error)}; correct the rows") from error
    return rows


def _separator(file: Path) -> str:
    return "\t" if ".tsv" in file.suffixes[-2:] else ","


def _root(error: BaseException) -> str:
    """What the innermost cause says, which is where datasets' own errors begin."""
    from datasets.table import CastError

    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CastError):
        differing = sorted(set(error.table_column_names) ^ set(error.requested_column_names))
        if differing:
            return f"columns that not all of them have: {', '.join(map(repr, differing))}"
    return first_line(error)


def _opened(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")


def _texts(files: Sequence[Path], unit: str) -> Iterator[dict[str, str]]:
    """The rows of .txt files: lines, paragraphs between empty lines, or whole files."""
    for path in files:
        with _opened(path) as file:
            if unit == "document":
                yield {"text": file.read()}
            elif unit == "line":
                yield from ({"text": line.removesuffix("\n")} for line in file)
            else:
                for filled, lines in groupby(file, key=lambda line: bool(line.strip())):
                    if filled:
                        yield {"text": "".join(lines).removesuffix("\n")}


def _blame(files: Sequence[Path], kind: str, unit: str) -> None:
    """Reads each file alone and raises DataError for the first that cannot be read, or when there are no rows."""
    count = 0
    for file in files:
        try:
            count += sum(1 for _ in _scan(file, kind, unit))
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}; correct or remove it") from error
    if not count:
        raise DataError(f"{_names(files)} has no rows; name files with rows")


def _scan(file: Path, kind: str, unit: str) -> Iterator[object]:
    """Yields something for each row or block of rows of a file; raises for what no reader takes."""
    if kind == "text":
        yield from _texts([file], unit)
    elif kind == "json":
        yield from _scan_json(file)
    elif kind == "csv":
        import pandas

        for frame in pandas.read_csv(file, sep=_separator(file), chunksize=10_000, **CSV_OPTIONS):
            if not isinstance(frame.index, pandas.RangeIndex):
                raise ValueError("rows have more fields than the header")
            yield from frame.index
    else:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(file) as parquet:
            yield from parquet.iter_batches()


def _scan_json(file: Path) -> Iterator[object]:
    """Each row of JSON lines or of one JSON array; DataError names the line at fault."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as stream:
        first = next((line for line in stream if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
        stream.seek(0)
        if first.lstrip().startswith(b"["):
            yield from json.load(stream)
            return
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip().decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{file}, line {number}: byte {error.start} is not UTF-8; correct the line") from error
            except json.JSONDecodeError as error:
                what = f"{error.msg[0].lower()}{error.msg[1:]} (column {error.colno})"
                raise DataError(f"{file}, line {number}: {what}; correct the line") from error
            if not isinstance(row, dict):
                found = type(row).__name__
                raise DataError(
                    f"{file}, line {number}: {found} in place of an object in curly brackets; correct the line"
                )
            yield row


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
        raise DataError(f"{setting} '{name}' is no split of the data; the splits are {_quoted(splits)}")
    if not len(splits[name]):
        raise DataError(f"split '{name}' has no rows; choose another {setting} among {_quoted(splits)}")
    return splits[name]


def _quoted(names: "dict[str, Dataset]") -> str:
    return ", ".join(map(repr, names))


def _hold_out(
    rows: "Dataset", fraction: float, labels: list[str] | None, say: Callable[[str], None]
) -> "tuple[Dataset, Dataset]":
    """Divides rows as datasets' own train_test_split does, each part in the order of the rows."""
    from datasets import ClassLabel, Dataset, Features, Value

    held_out = int(np.ceil(fraction * len(rows)))
    if len(rows) - held_out < 1:
        raise DataError(
            f"{len(rows)} rows cannot be divided by data.evaluation_fraction = {fraction}; add rows, set it to 0 or "
            "name data.evaluation_files"
        )
    columns: dict[str, Any] = {"row": range(len(rows))}
    features = {"row": Value("int64")}
    stratify = None
    if labels is not None:
        names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if counts.min() < 2:
            rare = names[counts.argmin()]
            say(f"evaluation rows are drawn without stratification: label '{rare}' has one row only")
        elif min(held_out, len(rows) - held_out) < len(names):
            say(f"evaluation rows are drawn without stratification: {held_out} rows for {len(names)} labels")
        else:
            columns["label"], stratify = codes, "label"
            features["label"] = ClassLabel(num_classes=len(names))
    numbers = Dataset.from_dict(columns, features=Features(features)).train_test_split(
        test_size=fraction, seed=SPLIT_SEED, stratify_by_column=stratify
    )
    train, evaluation = (rows.select(sorted(numbers[part]["row"])) for part in ("train", "test"))
    return train, evaluation


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
