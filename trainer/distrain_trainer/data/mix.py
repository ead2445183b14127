"""Several data sets as one: each tokenized for itself, and as often in an epoch as its weight says.

What comes out is an entry of the cache as any other, so plan, batches and resumes know nothing of it.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from distrain_trainer.data.readers import FORMATS
from distrain_trainer.data.rows import ArrayFiles, Rows
from distrain_trainer.data.sources import Origin, cache_folder
from distrain_trainer.data.tokens import Tokenized, fingerprint_of, load_entry, prepare
from distrain_trainer.errors import DataError, VolumeError
from distrain_trainer.settings.model import Settings, changed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIX = 3
"""Beside the seed, what the rows of a part of a data set are drawn by."""
PIECE = 4096
"""Rows that are copied at a time."""


def prepare_all(
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    say: Callable[[str], None],
    first: bool = True,
) -> Tokenized:
    """The token rows of a run's data, of one data set or of several. As `prepare`."""
    if settings.data.mix is None:
        return prepare(settings, tokenizer, max_length, say, first)
    weights = weights_of(settings.data.mix)
    parts = [prepare(alone(settings, name), tokenizer, max_length, say, first) for name in weights]
    for name, part in zip(weights, parts, strict=True):
        if part.label_names != parts[0].label_names:
            raise DataError(
                f"data.mix: {name} has other labels ({part.label_names}) than {next(iter(weights))} "
                f"({parts[0].label_names}); give both the same"
            )
    return _mixed(settings, weights, parts, say)


def weights_of(mix: Sequence[str]) -> dict[str, float]:
    """Name and weight of each data set, as the settings have checked them."""
    pairs = (entry.rpartition("=") for entry in mix)
    return {name.strip(): float(weight) for name, _, weight in pairs}


def alone(settings: Settings, name: str) -> Settings:
    """The settings of one of the data sets: a file or glob, or a name on the Hub, with a commit behind @ if there is
    one. Raises SettingsError."""
    path = Path(name).expanduser()
    if path.exists() or glob.has_magic(name) or path.suffix in (*FORMATS, ".gz") or path.is_absolute():
        return changed(settings, {"data.mix": None, "data.files": [name]})
    hub, _, revision = name.partition("@")
    return changed(settings, {"data.mix": None, "data.name": hub, "data.revision": revision or None})


def chosen(count: int, weight: float, seed: int, number: int) -> np.ndarray:
    """The rows of a data set in an epoch: int64, all of them as often as the weight has whole parts, and of the rest a
    part that the seed draws. count: of its rows. number: of the data set."""
    whole, part = divmod(weight, 1)
    generator = np.random.Generator(np.random.PCG64([seed, MIX, number]))
    drawn = np.sort(generator.permutation(count)[: round(part * count)])
    return np.concatenate([*[np.arange(count)] * int(whole), drawn]).astype(np.int64)


def _mixed(
    settings: Settings, weighted: Mapping[str, float], parts: Sequence[Tokenized], say: Callable[[str], None]
) -> Tokenized:
    """The entry of the cache that holds all parts, made where it is missing."""
    weights = list(weighted.values())
    told = ", ".join(f"{weight:g} x {part.origin.description}" for weight, part in zip(weights, parts, strict=True))
    key = hashlib.sha256(
        json.dumps([settings.seed, weights, [part.fingerprint for part in parts]]).encode()
    ).hexdigest()
    kept = zip(weighted.items(), parts, strict=True)
    origin = Origin(told, key, mix=tuple(f"{_at_commit(name, part)}={weight}" for (name, weight), part in kept))
    entry = cache_folder(settings.data) / "tokens" / f"mix-{key}"
    with FileLock(f"{entry}.lock"):
        if (found := load_entry(entry, origin)) is None:
            making = entry.with_name(f"{entry.name}.making.{os.getpid()}")
            making.mkdir(parents=True)
            try:
                _write(making, settings, weights, parts)
                shutil.rmtree(entry, ignore_errors=True)
                making.rename(entry)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise VolumeError(
                        f"the cache's disk is full ({entry.parent}); free space or set data.cache"
                    ) from error
                raise
            finally:
                shutil.rmtree(making, ignore_errors=True)
            found = load_entry(entry, origin)
    assert found is not None
    say(f"data.mix: {told}: {len(found.train):,} training rows")
    return found


def _at_commit(name: str, part: Tokenized) -> str:
    """A data set on the Hub with the commit that it is at; files as they are."""
    return f"{name.partition('@')[0]}@{part.origin.commit}" if part.origin.commit else name


def _write(folder: Path, settings: Settings, weights: Sequence[float], parts: Sequence[Tokenized]) -> None:
    """Writes the arrays of all parts, and meta.json."""
    arrays: dict[str, dict[str, int]] = {}
    train = [
        (part.train, chosen(len(part.train), weight, settings.seed, number))
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True))
    ]
    evaluation = [(part.evaluation, np.arange(len(part.evaluation))) for part in parts if part.evaluation is not None]
    for name, sources in (("train", train), ("evaluation", evaluation)):
        if sources:
            arrays[name] = _joined(folder, name, sources, settings.facts.target == "row")
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in part.counts.items():
            counts[name] = counts.get(name, 0) + count
    for name, lengths in arrays.items():
        counts |= {f"{name}_rows": lengths["offsets"] - 1, f"{name}_tokens": lengths["input_ids"]}
    names = parts[0].label_names
    meta = {"fingerprint": fingerprint_of(folder, names), "label_names": names, "counts": counts, "arrays": arrays}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _joined(folder: Path, name: str, sources: Sequence[tuple[Rows, np.ndarray]], of_rows: bool) -> dict[str, int]:
    """Writes the chosen rows of several arrays behind each other; returns the lengths of the arrays. of_rows: whether
    labels are those of rows, not of tokens."""
    kept = {field for rows, _ in sources for field in ("labels", "words", "types") if getattr(rows, field) is not None}
    if "types" in kept and any(rows.types is None for rows, _ in sources):
        raise DataError("data.mix: some of the data sets are pairs of texts and others are not; give all the same")
    with ArrayFiles(folder, name) as files:
        files.append("offsets", np.zeros(1, np.int64))
        end = 0
        for rows, numbers in sources:
            for start in range(0, len(numbers), PIECE):
                piece = numbers[start : start + PIECE]
                spans = [slice(rows.offsets[row], rows.offsets[row + 1]) for row in piece.tolist()]
                lengths = rows.lengths[piece]
                files.append("offsets", end + np.cumsum(lengths, dtype=np.int64))
                end += int(lengths.sum())
                for field, values in _arrays(rows, piece, spans, kept, of_rows):
                    files.append(field, values)
    return files.lengths


def _arrays(
    rows: Rows, piece: np.ndarray, spans: list[slice], kept: set[str], of_rows: bool
) -> Iterator[tuple[str, Any]]:
    """(field, values) of some rows. Targets that are the tokens themselves are written out where others are not."""
    ids = np.concatenate([rows.input_ids[span] for span in spans])
    yield "input_ids", ids
    for field in sorted(kept):
        array = getattr(rows, field)
        if array is None:
            yield field, ids
        elif of_rows and field == "labels":
            yield field, array[piece]
        else:
            yield field, np.concatenate([array[span] for span in spans])
