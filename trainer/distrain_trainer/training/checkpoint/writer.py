"""Writing a checkpoint: each process its own parameters, all published at once."""

import os
import re
import shutil
import threading
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from distrain_trainer.errors import Superseded, VolumeLost
from distrain_trainer.models.lora import WEIGHTS
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Parallel, Shapes, Tensors
from distrain_trainer.parallel.average import as_saved
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.storage.files import sync_file, sync_folder
from distrain_trainer.storage.layout import OPTIMIZER, published_checkpoints
from distrain_trainer.storage.retry import FULL
from distrain_trainer.storage.safetensors_writer import SafetensorsWriter, WrittenFile
from distrain_trainer.training.checkpoint.format import (
    TrainingState,
    part_name,
    reason,
    write_manifest,
    write_state,
    write_weights_index,
)
from distrain_trainer.training.checkpoint.retention import NEW_FINAL, Retention, discard

_SUPERSEDED = "superseded"
_CUT_SHORT = "its writer has not come to its end"


@dataclass
class _InFlight:
    """A checkpoint that is being written, as far as this process is concerned.

    whole: with what a resume needs, not the model alone. error: why this process's part is not there; None once it is.
    """

    folder: Path
    state: TrainingState
    whole: bool = True
    thread: threading.Thread | None = None
    files: dict[str, WrittenFile] = field(default_factory=dict)
    error: str | None = _CUT_SHORT


@dataclass(kw_only=True)
class CheckpointWriter:
    """Writes the checkpoints of the run in `folder`, one at a time.

    fingerprint: of the data. background: files are written by a thread while training continues. write_static: writes
    into a folder what from_pretrained needs besides the weights. say: takes sentences for a person. disk_full: why the
    last one could not be written.
    """

    folder: Path
    process: ProcessRank
    attempt: int
    fingerprint: str
    background: bool
    parallel: Parallel
    write_static: Callable[[Path], None]
    retention: Retention
    say: Callable[[str], None]
    disk_full: bool = field(default=False, init=False)
    _in_flight: _InFlight | None = field(default=None, init=False)

    @property
    def in_flight(self) -> bool:
        """Whether a checkpoint is begun and not yet finished."""
        return self._in_flight is not None

    @property
    def written(self) -> bool:
        """Whether this process has done its part of the checkpoint in flight, with or without an error."""
        writing = self._in_flight
        return writing is not None and not (writing.thread and writing.thread.is_alive())

    def begin(self, state: TrainingState, whole: bool = True) -> None:
        """Begins to write a checkpoint from a copy of the run's state. On all processes.

        whole: False for the model alone, which becomes `tmp.final`. `finish` publishes it; the loop calls that when all
        processes have written their part, because the writer thread itself uses no collective.
        """
        if self.in_flight:
            self.finish()
        folder = self.folder / f"tmp.{state.step}.{self.attempt}"
        self._in_flight = writing = _InFlight(folder, replace(state), whole)
        shapes = {name: as_saved(self.parallel.describe(name)) for name in self._own_names()}
        own = self._own_tensors(shapes)
        if self.background:
            copies = iter([(name, {k: t.detach().cpu().clone() for k, t in found.items()}) for name, found in own])
            writing.thread = threading.Thread(target=self._write_behind, args=(writing, shapes, copies))
            writing.thread.start()
        else:
            self._write_part(writing, shapes, own)
            for _ in own:  # the rest after an error of the disk, since the other processes still gather
                pass

    def finish(self) -> int | None:
        """Waits for all parts of the checkpoint in flight and publishes it. On all processes.

        Returns its step, or None if a disk failed: that costs this checkpoint and nothing else, the old ones stay.
        Raises Superseded if a newer attempt has begun.
        """
        writing = self._in_flight
        assert writing is not None
        if writing.thread:
            writing.thread.join()
        self._in_flight = None
        parts = collectives.gather((writing.error, writing.files))
        error = next((error for error, _ in parts if error), None)
        if error is None and self.process.is_main:
            error = self._publish(writing, {name: file for _, files in parts for name, file in files.items()})
        error = collectives.from_main(error)
        self.disk_full = error in {os.strerror(number) for number in FULL}
        if error == _SUPERSEDED:
            raise Superseded(f"a newer attempt at {self.folder} has begun; attempt {self.attempt} leaves it alone")
        if self.process.is_main and error:
            shutil.rmtree(writing.folder, ignore_errors=True)
            self.say(
                f"the checkpoint of step {writing.state.step} was not written ({error}); "
                "the ones before it stay and training continues"
                if writing.whole
                else f"the model of step {writing.state.step} was not written ({error})"
            )
        elif self.process.is_main and writing.whole:
            self.retention.keep_best(writing.state)
            self.retention.prune()
        return writing.state.step if error is None else None

    @property
    def _parts(self) -> int:
        """Number of files that hold the weights: one per process, but peft reads an adapter from a single one."""
        return 1 if self.parallel.file == WEIGHTS else self.process.world

    def _own_names(self) -> list[str]:
        """Names of the parameters that this process writes."""
        rank, parts = self.process.rank, self._parts
        return list(self.parallel.parameters)[rank::parts] if rank < parts else []

    def _own_tensors(self, names: Container[str]) -> Iterator[tuple[str, Tensors]]:
        """Name and full tensors of each parameter that this process writes. All processes read all, one at a time."""
        for name in self.parallel.parameters:
            tensors = as_saved(self.parallel.read(name))
            if name in names:
                yield name, tensors

    def _write_part(self, writing: _InFlight, shapes: dict[str, Shapes], own: Iterator[tuple[str, Tensors]]) -> None:
        """Writes this process's parameters; an error of the disk is kept for `finish`."""
        rank, parts = self.process.rank, self._parts
        buffers = self.parallel.buffers if self.process.is_main else {}
        weights = [(name, *found["weight"]) for name, found in shapes.items()]
        weights += [(name, buffer.dtype, buffer.shape) for name, buffer in buffers.items()]
        moments = [
            (f"{n}/{key}", *shape) for n, found in shapes.items() for key, shape in found.items() if key != "weight"
        ]
        if not writing.whole:
            moments = []
        try:
            if rank >= parts:
                writing.error = None
                return
            writing.folder.mkdir(parents=True, exist_ok=True)
            names = part_name(self.parallel.file, rank, parts), part_name(OPTIMIZER, rank, parts)
            with (
                SafetensorsWriter(writing.folder / names[0], weights) as model,
                SafetensorsWriter(writing.folder / names[1], moments) as optimizer,
            ):
                for name, tensors in own:
                    model.append(tensors["weight"])
                    for key in shapes[name]:
                        if key != "weight" and writing.whole:
                            optimizer.append(tensors[key])
                for buffer in buffers.values():
                    model.append(buffer)
                writing.files = {names[0]: model.close(), names[1]: optimizer.close()}
            writing.error = None
        except OSError as error:
            writing.error = reason(error)

    def _write_behind(self, writing: _InFlight, shapes: dict[str, Shapes], own: Iterator[tuple[str, Tensors]]) -> None:
        """Writes in a thread, whose errors nobody else would hear of: whatever they are, they fail the checkpoint."""
        try:
            self._write_part(writing, shapes, own)
        except Exception as error:
            writing.error = f"{type(error).__name__}: {error}"

    def _publish(self, writing: _InFlight, files: dict[str, WrittenFile]) -> str | None:
        """Adds the small files and the manifest, and renames the folder. Returns what went wrong, None if nothing."""
        folder, state = writing.folder, writing.state
        try:
            write_static(self.write_static, folder)
            if self._parts > 1:
                write_weights_index(folder, files)
            if not writing.whole:
                return self._publish_model(folder)
            write_state(folder, state)
            write_manifest(folder, state.step, self.process.world, self.fingerprint, files)
            sync_folder(folder)
            self.retention.fence.check()
            target = self.folder / f"checkpoint-{state.step}"
            if target in published_checkpoints(self.folder):
                discard(target)
            folder.rename(target)
            self.retention.damaged.discard(target.name)
            sync_folder(self.folder)
        except OSError as error:
            return reason(error)
        except VolumeLost as error:
            return str(error)
        except Superseded:
            return _SUPERSEDED
        return None

    def _publish_model(self, folder: Path) -> str | None:
        """Makes `tmp.final` of a folder that holds a model alone. Raises OSError."""
        for path in folder.glob(f"{OPTIMIZER}*"):  # without a tensor
            path.unlink()
        for path in folder.iterdir():
            sync_file(path)
        sync_folder(folder)
        self.retention.fence.check()
        target = self.folder / NEW_FINAL
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
        return None


def write_static(write: Callable[[Path], object], folder: Path) -> None:
    """Writes the files beside the weights. Raises OSError, also for tokenizers, whose errors of the disk are their own
    (`No space left on device (os error 28)`)."""
    try:
        write(folder)
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
