"""Resuming: the newest checkpoint that is whole, verified and loaded. On all processes."""

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from distrain_trainer.bars import Advance, progress
from distrain_trainer.errors import CheckpointError, DataError
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Parallel
from distrain_trainer.parallel.average import as_trained
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.storage.layout import MANIFEST, OPTIMIZER, published_checkpoints
from distrain_trainer.storage.retry import read_when_seen
from distrain_trainer.training.checkpoint.format import (
    FORMAT,
    TrainingState,
    open_tensors,
    read_state,
    reason,
)
from distrain_trainer.training.checkpoint.retention import Retention

PIECE = 2**24
"""Bytes of a file that are read and hashed at a time."""


def restore(
    folder: Path,
    process: ProcessRank,
    fingerprint: str,
    parallel: Parallel,
    retention: Retention,
    say: Callable[[str], None],
) -> TrainingState | None:
    """Loads the newest whole checkpoint of the run in `folder`; None if there is no checkpoint. On all processes.

    Each process verifies its share of the files; a checkpoint that one finds damaged is skipped by all.
    fingerprint: of the data. say: takes sentences for a person.
    Raises CheckpointError if there are checkpoints and none is whole, DataError if they are from other data.
    """
    candidates = collectives.from_main(published_checkpoints(folder))
    for path in candidates:
        problems = collectives.gather(_problem(path, process, fingerprint))
        problem = next((problem for problem in problems if problem), None)
        if problem is None:
            state = _load(path, parallel, process.is_main)
            if process.is_main:
                retention.keep_best(state)
                say(f"resuming from {path.name}")
            return state
        retention.damaged.add(path.name)
        if process.is_main:
            say(f"{path.name} is damaged ({problem}); the one before is used instead")
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {folder} is whole; nothing was deleted: "
            "restore one from a copy, or start anew in another output_dir"
        )
    return None


def _problem(path: Path, process: ProcessRank, fingerprint: str) -> str | None:
    """What is wrong with this process's share of a checkpoint, None if nothing.

    An error of the volume that may pass is no damage. Raises CheckpointError, DataError, VolumeError, VolumeLost.
    """
    try:
        manifest = json.loads(read_when_seen(path / MANIFEST, Path.read_text))
        files = manifest["files"]
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {manifest['format']}; this version of distrain reads {FORMAT}")
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is unreadable"
    if manifest["data"] != fingerprint:
        raise DataError(
            f"the training data are not those that {path} was trained on; bring the old data back, or start anew in "
            "another output_dir"
        )
    share = sorted(files)[process.rank :: process.world]
    total = sum(files[name]["size"] for name in share)
    with progress(f"verifying {path.name}", total, "bytes", process.is_main) as advance:
        for name in share:
            try:
                size, digest = read_when_seen(path / name, partial(_size_and_hash, advance=advance))
            except FileNotFoundError as error:
                return f"{name}: {reason(error)}"
            if size != files[name]["size"]:
                return f"{name} is {size} bytes, not {files[name]['size']}"
            if digest != files[name]["sha256"]:
                return f"the bytes of {name} are not those that were written"
    return None


def _size_and_hash(path: Path, advance: Advance) -> tuple[int, str]:
    """advance: is told of bytes."""
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            hashed.update(piece)
            advance(len(piece))
        return os.fstat(file.fileno()).st_size, hashed.hexdigest()


def _load(path: Path, parallel: Parallel, shown: bool) -> TrainingState:
    """Puts a checkpoint into the model, the optimizer and the loss scaler. shown: whether how far it is is shown."""
    weights = open_tensors(path, parallel.file)
    moments = open_tensors(path, OPTIMIZER)
    by_parameter: dict[str, list[str]] = {}
    for entry in moments:
        by_parameter.setdefault(entry.rpartition("/")[0], []).append(entry)
    with progress(f"loading {path.name}", len(parallel.parameters), "parameters", shown) as advance:
        for name in parallel.parameters:
            tensors = {"weight": weights[name].get_tensor(name)}
            for entry in by_parameter.get(name, []):
                tensors[entry.rpartition("/")[2]] = moments[entry].get_tensor(entry)
            parallel.write(name, as_trained(tensors))
            advance(1)
        parallel.finish_writing()
    state = read_state(path)
    if state.loss_scale and parallel.loss_scaler is not None:
        parallel.loss_scaler.load_state_dict(state.loss_scale)
    return state
