"""Checkpoints: one format for every strategy and any number of processes, published whole or not at all.

A checkpoint is a folder: fp32 weights as from_pretrained reads them and the optimizer's tensors by parameter name,
process i writing parameters i mod world (an adapter, which peft reads from one file, is process 0's); `state.json`;
and `manifest.json`, written last, with each file's size and sha256. It is written as `tmp.<step>.<attempt>` and renamed
when it is durable. No pickle anywhere.

All methods that are called on every process say so; the rest are for process 0.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from distrain_trainer.errors import CheckpointError, DataError, Superseded
from distrain_trainer.models.lora import WEIGHTS
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Parallel, Shapes, Tensors
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.storage.attempts import current_attempt
from distrain_trainer.storage.files import sync_folder, write_json
from distrain_trainer.storage.safetensors_writer import SafetensorsFile, Written

FORMAT = 1
BEST = "checkpoint-best"


@dataclass
class State:
    """What a run remembers besides its tensors.

    step: steps done. evaluated_step: step of the last evaluation. best: {"metric", "value", "step"}.
    misses: evaluations in a row without a better metric. skipped: steps in a row that were not finite.
    tokens, padded_tokens, samples, seconds: trained on so far, over all attempts and processes.
    epoch_loss, epoch_targets: sums over the running epoch. loss_scale: of fp16.
    """

    step: int = 0
    evaluated_step: int = 0
    best: dict[str, Any] | None = None
    misses: int = 0
    skipped: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_targets: float = 0.0
    loss_scale: dict[str, Any] | None = None


def numbered(folder: Path) -> list[Path]:
    """The published checkpoints of a run, newest first."""
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return [path for _, path in sorted(((int(m[1]), path) for m, path in found if m), reverse=True)]


class Checkpoints:
    """The checkpoints of a run: written, found again, kept and thrown away.

    folder: the run's. fingerprint: of the data. write_static: writes what from_pretrained needs beside the weights
    into a folder. say: tells the person a sentence (process 0).
    """

    def __init__(
        self,
        folder: Path,
        process: ProcessRank,
        attempt: int,
        fingerprint: str,
        keep: int,
        background: bool,
        parallel: Parallel,
        write_static: Callable[[Path], None],
        say: Callable[[str], None],
    ):
        self.folder, self.process, self.attempt, self.fingerprint = folder, process, attempt, fingerprint
        self.keep, self.background, self.parallel = keep, background, parallel
        self.write_static, self.say = write_static, say
        self._writing: _Writing | None = None
        self._damaged: set[str] = set()

    # Writing

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is begun and not yet finished."""
        return self._writing is not None

    @property
    def written(self) -> bool:
        """Whether this process has done its part of the checkpoint in flight, well or badly."""
        return self._writing is not None and not (self._writing.thread and self._writing.thread.is_alive())

    def begin(self, state: State) -> None:
        """Begins to write a checkpoint from a copy of the run's state. On every process.

        It is published by `finish`, which the loop calls when all processes have written their part: the writer
        thread itself talks to nobody.
        """
        if self.in_flight:
            self.finish()
        folder = self.folder / f"tmp.{state.step}.{self.attempt}"
        self._writing = writing = _Writing(folder, State(**asdict(state)))
        shapes = {name: self.parallel.describe(name) for name in self._own_names()}
        own = self._own(shapes)
        if self.background:
            copies = iter([(name, {k: t.detach().cpu().clone() for k, t in found.items()}) for name, found in own])
            writing.thread = threading.Thread(target=self._write_part, args=(writing, shapes, copies))
            writing.thread.start()
        else:
            self._write_part(writing, shapes, own)
            for _ in own:  # what is left where the disk has failed: the other processes read on
                pass

    def finish(self) -> int | None:
        """Waits for all parts of the checkpoint in flight and publishes it. On every process.

        Returns its step, None where a disk failed: that costs this checkpoint and nothing else, the old ones stay.
        Raises Superseded when a newer attempt has begun.
        """
        writing = self._writing
        assert writing is not None
        if writing.thread:
            writing.thread.join()
        self._writing = None
        parts = collectives.gather((writing.error, writing.files))
        error = next((error for error, _ in parts if error), None)
        if error is None and self.process.is_main:
            error = self._publish(writing, {name: record for _, files in parts for name, record in files.items()})
        error = collectives.from_main(error)
        if error == _SUPERSEDED:
            raise Superseded(f"a newer attempt at {self.folder} has begun; attempt {self.attempt} leaves it alone")
        if self.process.is_main and error:
            shutil.rmtree(writing.folder, ignore_errors=True)
            self.say(
                f"the checkpoint of step {writing.state.step} was not written ({error}); "
                "the ones before it stay and training goes on"
            )
        elif self.process.is_main:
            self._keep_best(writing.state)
            self._prune()
        return writing.state.step if error is None else None

    @property
    def _parts(self) -> int:
        """Files that the weights are in: one a process, but peft reads an adapter from one only."""
        return 1 if self.parallel.file == WEIGHTS else self.process.world

    def _own_names(self) -> list[str]:
        return (
            list(self.parallel.parameters)[self.process.rank :: self._parts] if self.process.rank < self._parts else []
        )

    def _own(self, names: Container[str]) -> Iterator[tuple[str, Tensors]]:
        """Name and full state of each parameter that this process writes. All processes read all, one at a time."""
        for name in self.parallel.parameters:
            tensors = self.parallel.read(name)
            if name in names:
                yield name, tensors

    def _part(self, kind: str) -> str:
        """Name of this process's file of weights or optimizer tensors."""
        rank, parts = self.process.rank, self._parts
        return f"{kind}-{rank + 1:05}-of-{parts:05}.safetensors" if parts > 1 else f"{kind}.safetensors"

    def _write_part(self, writing: "_Writing", shapes: dict[str, Shapes], own: Iterator[tuple[str, Tensors]]) -> None:
        """Writes this process's parameters; an error of the disk is kept for `finish`."""
        buffers = self.parallel.buffers if self.process.is_main else {}
        weights = [(name, *found["weight"]) for name, found in shapes.items()]
        weights += [(name, buffer.dtype, buffer.shape) for name, buffer in buffers.items()]
        moments = [
            (f"{n}/{key}", *shape) for n, found in shapes.items() for key, shape in found.items() if key != "weight"
        ]
        try:
            if self.process.rank >= self._parts:
                return
            writing.folder.mkdir(parents=True, exist_ok=True)
            names = self._part(self.parallel.file), self._part("optimizer")
            with (
                SafetensorsFile(writing.folder / names[0], weights) as model,
                SafetensorsFile(writing.folder / names[1], moments) as optimizer,
            ):
                for name, tensors in own:
                    model.append(tensors["weight"])
                    for key in shapes[name]:
                        if key != "weight":
                            optimizer.append(tensors[key])
                for buffer in buffers.values():
                    model.append(buffer)
                writing.files = {names[0]: model.close(), names[1]: optimizer.close()}
        except OSError as error:
            writing.error = _reason(error)

    def _publish(self, writing: "_Writing", files: dict[str, Written]) -> str | None:
        """Adds the small files and the manifest, and renames the folder; returns what went wrong."""
        folder, state = writing.folder, writing.state
        try:
            self.write_static(folder)
            if self._parts > 1:
                write_json(folder / "model.safetensors.index.json", _index(folder, files))
            write_json(folder / "state.json", asdict(state))
            for path in sorted(folder.iterdir()):
                if path.name not in files:
                    files[path.name] = _hash_durably(path)
            manifest = {
                "format": FORMAT,
                "step": state.step,
                "world": self.process.world,
                "data": self.fingerprint,
                "files": {name: asdict(files[name]) for name in sorted(files)},
            }
            write_json(folder / "manifest.json", manifest)
            sync_folder(folder)
            if current_attempt(self.folder) != self.attempt:
                return _SUPERSEDED
            target = self.folder / f"checkpoint-{state.step}"
            if target.exists():
                self._discard(target)
            folder.rename(target)
            self._damaged.discard(target.name)
            sync_folder(self.folder)
        except OSError as error:
            return _reason(error)
        return None

    # Keeping

    def _keep_best(self, state: State) -> None:
        """Makes `checkpoint-best` the one that the state calls best, where that one is at hand."""
        if state.best is None:
            return
        source, best = self.folder / f"checkpoint-{state.best['step']}", self.folder / BEST
        if not source.exists() or _best_step(best) == state.best["step"]:
            return
        try:
            copy = self.copy_model(source, f"tmp.best.{self.attempt}")
            write_json(copy / "state.json", json.loads((source / "state.json").read_text()))
            if best.exists():
                self._discard(best)
            copy.rename(best)
            sync_folder(self.folder)
        except OSError as error:
            self.say(f"{BEST} was not renewed ({_reason(error)}); step {state.best['step']} is the best so far")

    def copy_model(self, source: Path, name: str) -> Path:
        """A folder `name` beside `source` with its model, linked where the disk can, without the training state."""
        copy = source.parent / name
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in sorted(source.iterdir()):
            if path.name.startswith("optimizer") or path.name in ("manifest.json", "state.json"):
                continue
            try:
                os.link(path, copy / path.name)
            except OSError:
                shutil.copy2(path, copy / path.name)
                sync_folder(copy / path.name)
        return copy

    def _prune(self) -> None:
        """Removes the oldest; one that is damaged neither counts as kept nor is removed."""
        whole = [path for path in numbered(self.folder) if path.name not in self._damaged]
        for path in whole[self.keep :]:
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Removes a folder; out of sight first, so that a kill in the middle leaves no half checkpoint."""
        doomed = path.with_name(f"tmp.discarded.{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def clean(self) -> None:
        """Removes what earlier attempts left half-written."""
        for path in self.folder.glob("tmp.*"):
            shutil.rmtree(path, ignore_errors=True)

    # Resuming

    def restore(self) -> State | None:
        """Loads the newest checkpoint that is whole; None when there is none at all. On every process.

        Each process checks its share of the files; what one finds damaged, all pass over.
        Raises CheckpointError when there are checkpoints and none is whole, DataError when the data are others.
        """
        candidates = collectives.from_main(numbered(self.folder))
        for path in candidates:
            problems = collectives.gather(self._problem(path))
            problem = next((problem for problem in problems if problem), None)
            if problem is None:
                state = self._load(path)
                if self.process.is_main:
                    self._keep_best(state)
                    self.say(f"resuming from {path.name}")
                return state
            self._damaged.add(path.name)
            if self.process.is_main:
                self.say(f"{path.name} is damaged ({problem}); it is passed over for the one before")
        if candidates:
            raise CheckpointError(
                f"none of the {len(candidates)} checkpoints in {self.folder} is whole; nothing was deleted: "
                "restore one from a copy, or start anew in another output_dir"
            )
        return None

    def _problem(self, path: Path) -> str | None:
        """What is wrong with this process's share of a checkpoint, None if nothing."""
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            files = manifest["files"]
            if manifest["format"] != FORMAT:
                raise CheckpointError(f"{path} has format {manifest['format']}; this distrain reads {FORMAT}")
        except FileNotFoundError:
            return "manifest.json is missing"
        except (OSError, ValueError, KeyError, TypeError):
            return "manifest.json is unreadable"
        if manifest["data"] != self.fingerprint:
            raise DataError(
                f"the training data are not those that {path} was trained on; bring the old data back, or start anew "
                "in another output_dir"
            )
        for name in sorted(files)[self.process.rank :: self.process.world]:
            try:
                if (path / name).stat().st_size != files[name]["size"]:
                    return f"{name} is {(path / name).stat().st_size} bytes, not {files[name]['size']}"
                with (path / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != files[name]["sha256"]:
                        return f"the bytes of {name} are not those that were written"
            except OSError as error:
                return f"{name}: {_reason(error)}"
        return None

    def _load(self, path: Path) -> State:
        """Puts a checkpoint's tensors in place."""
        weights = _open_all(path, self.parallel.file)
        moments = _open_all(path, "optimizer")
        by_parameter: dict[str, list[str]] = {}
        for entry in moments:
            by_parameter.setdefault(entry.rpartition("/")[0], []).append(entry)
        for name in self.parallel.parameters:
            tensors = {"weight": weights[name].get_tensor(name)}
            for entry in by_parameter.get(name, []):
                tensors[entry.rpartition("/")[2]] = moments[entry].get_tensor(entry)
            self.parallel.write(name, tensors)
        self.parallel.finish_writing()
        known = {field.name for field in fields(State)}
        state = json.loads((path / "state.json").read_text())
        return State(**{name: value for name, value in state.items() if name in known})


_SUPERSEDED = "superseded"


class _Writing:
    """A checkpoint in flight, as far as this process is concerned."""

    def __init__(self, folder: Path, state: State):
        self.folder, self.state = folder, state
        self.thread: threading.Thread | None = None
        self.files: dict[str, Written] = {}
        self.error: str | None = None


def _index(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """The index by which from_pretrained finds each weight's file."""
    weight_map: dict[str, str] = {}
    size = 0
    for name in sorted(name for name in files if name.startswith("model-")):
        with safe_open(folder / name, "pt") as file:
            weight_map |= dict.fromkeys(file.keys(), name)
        size += (folder / name).stat().st_size
    return {"metadata": {"total_size": size}, "weight_map": weight_map}


def _open_all(path: Path, kind: str) -> dict[str, Any]:
    """Tensor name -> the open file that holds it, over all files of a kind."""
    found: dict[str, Any] = {}
    for file in sorted(path.glob(f"{kind}*.safetensors")):
        opened = safe_open(file, "pt")
        found |= dict.fromkeys(opened.keys(), opened)
    return found


def _best_step(best: Path) -> int | None:
    """The step whose model `checkpoint-best` holds."""
    try:
        return json.loads((best / "state.json").read_text())["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hash_durably(path: Path) -> Written:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return Written(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def tensors_digest(tensors: Iterable[torch.Tensor]) -> str:
    """A digest of tensors that costs one pass over their memory: the sum of their bits as integers, each."""

    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().contiguous().flatten().view(torch.int32 if tensor.element_size() == 4 else torch.uint8)

    sums = [int(bits(tensor).sum(dtype=torch.int64)) for tensor in tensors]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
