"""Local files as a data set on the Hub: typed columns in Parquet, one split for each that the files' names say.

A run on it by `data.name` reads the same rows as one on the files.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from distrain_trainer.bars import progress
from distrain_trainer.data.files import divide, open_files, resolve_files
from distrain_trainer.data.readers import format_of, rows_of_file
from distrain_trainer.data.sources import quiet_datasets
from distrain_trainer.data.table import Source
from distrain_trainer.errors import DataError
from distrain_trainer.hub.pushed import Pushed
from distrain_trainer.settings.sections import Data, Hub

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def push_data(
    patterns: Sequence[str], asked: Hub, config: str, tell: Callable[[str], None]
) -> tuple[Pushed, dict[str, int]]:
    """Pushes files, or a folder written by save_to_disk, as a configuration of the data set `asked.repo`.

    patterns: names and globs. Returns what is on the Hub, and the rows of each split. Raises DataError, SettingsError,
    ServiceAway.
    """
    from distrain_trainer.hub.upload import open_repository, patiently

    assert asked.repo is not None
    repo = asked.repo
    with TemporaryDirectory(prefix="distrain-") as scratch, quiet_datasets():
        splits = read_splits(patterns, Path(scratch), tell)
        rows = {name: len(part) for name, part in splits.items()}

        def push() -> Pushed:
            from huggingface_hub import HfApi, constants

            open_repository(HfApi(), repo, "dataset", asked.private, tell)
            with progress(f"pushing to {repo}", shown=not sys.stderr.isatty()):  # there, bars of files are drawn
                made = splits.push_to_hub(
                    repo, config, private=asked.private, commit_message=f"{sum(rows.values()):,} rows, by distrain"
                )
            return Pushed(repo, made.oid, f"{constants.ENDPOINT}/datasets/{repo}")

        return patiently(push, "dataset", repo, asked.wait_minutes * 60, tell), rows


def read_splits(patterns: Sequence[str], scratch: Path, tell: Callable[[str], None]) -> "DatasetDict":
    """All columns of the files as splits with the same types. scratch: an empty folder that outlives them."""
    from datasets import DatasetDict

    files = resolve_files(patterns, "FILES")
    if not files:
        raise DataError("FILES: no file was named")
    if files[0].is_dir():
        opened = open_files(files, Data(), (), scratch)
        sources = opened if isinstance(opened, dict) else {"train": opened}
    else:
        sources = {}
        for name, part in divide(files).items():
            source = open_files(part, Data(), columns_of(part), scratch / name)
            assert isinstance(source, Source)
            sources[name] = source
    splits = DatasetDict({name: typed_rows(source, tell) for name, source in sources.items()})
    first, *others = splits
    for other in others:
        if splits[other].features != splits[first].features:
            raise DataError(
                f"the splits have different columns: {first} has {splits[first].features} and {other} has "
                f"{splits[other].features}; correct the files, or push them apart"
            )
    return splits


def columns_of(files: Sequence[Path]) -> list[str]:
    """Names of all columns of some files."""
    if format_of(files[0]) == "parquet":
        from pyarrow.parquet import read_schema

        return list(dict.fromkeys(name for file in files for name in read_schema(file).names))
    seen: dict[str, None] = {}
    for file in files:
        for _ in rows_of_file(file, seen, ()):
            pass
    return list(seen)


def typed_rows(source: Source, tell: Callable[[str], None]) -> "Dataset":
    """The rows with a type for each column. Objects that Arrow would change are stored as JSON text, which is said."""
    from datasets import Dataset

    if not source.is_text:
        return source.rows
    columns: dict[str, list[Any]] = {}
    for name in source.rows.column_names:
        values = source.values(name)
        if not survives(values):
            tell(f"column '{name}' is stored as JSON text: a table would give its objects other keys or types")
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        columns[name] = values
    return Dataset.from_dict(columns)


def survives(values: list[Any]) -> bool:
    """Whether values come back from Arrow as they are: it gives every object the keys of all others."""
    import pyarrow as pa

    try:
        back: list[Any] = pa.array(values).to_pylist()
    except (pa.ArrowException, OverflowError):
        return False
    return back == values
