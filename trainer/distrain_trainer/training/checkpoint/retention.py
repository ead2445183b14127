"""Which checkpoints are kept: the newest, and a copy of the best model. On process 0."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distrain_trainer.storage.attempts import Fence
from distrain_trainer.storage.files import link_or_copy, sync_folder, write_json
from distrain_trainer.storage.layout import BEST, STATE, model_files, published_checkpoints, temporary
from distrain_trainer.training.checkpoint.format import TrainingState, reason

NEW_FINAL = "tmp.final"
"""Name of the folder that becomes `final/`."""


@dataclass
class Retention:
    """Keeps the newest `keep` checkpoints of the run in `folder`, and the best model.

    attempt: of this process. say: takes sentences for a person. damaged: names of checkpoints that were found damaged;
    they neither count as kept nor are removed. fence: before this attempt writes over what others may have written.
    """

    folder: Path
    attempt: int
    keep: int
    say: Callable[[str], None]
    damaged: set[str] = field(default_factory=set)
    fence: Fence = field(init=False)

    def __post_init__(self) -> None:
        self.fence = Fence(self.folder, self.attempt)

    def keep_best(self, state: TrainingState, model: Path | None = None) -> None:
        """Makes `checkpoint-best` the model that the state calls best, if its checkpoint still exists.

        model: the folder of the model of `state.step`, where there is no checkpoint of it.
        """
        if state.best is None:
            return
        source, best = self.folder / f"checkpoint-{state.best['step']}", self.folder / BEST
        if model is not None and state.best["step"] == state.step:
            source = model
        if not source.exists() or _best_step(best) == state.best["step"]:
            return
        try:
            copy = copy_model(source, f"tmp.best.{self.attempt}")
            write_json(copy / STATE, asdict(state) if source == model else json.loads((source / STATE).read_text()))
            if best.exists():
                discard(best)
            copy.rename(best)
            sync_folder(self.folder)
        except OSError as error:
            step = state.best["step"]
            self.say(f"{BEST} was not updated ({reason(error)}); the best model so far is that of step {step}")

    def prune(self) -> None:
        """Removes the oldest checkpoints. One that cannot be removed stays, and is tried again after the next."""
        whole = [path for path in published_checkpoints(self.folder) if path.name not in self.damaged]
        for path in whole[self.keep :]:
            try:
                discard(path)
            except OSError as error:
                self.say(f"{path.name} could not be removed ({reason(error)}); it stays for now")

    def make_room(self) -> bool:
        """Removes the oldest checkpoint, but never the last; whether there was one to remove."""
        whole = [path for path in published_checkpoints(self.folder) if path.name not in self.damaged]
        if len(whole) < 2:
            return False
        try:
            discard(whole[-1])
        except OSError:
            return False
        self.say(f"{whole[-1].name} was removed to make room for the result")
        return True

    def clean(self) -> None:
        """Removes what earlier attempts left half-written, and nothing of a later one. Raises Superseded."""
        self.fence.check()
        for path, attempt in temporary(self.folder):
            if attempt is None or attempt <= self.attempt:
                shutil.rmtree(path, ignore_errors=True)


def copy_model(source: Path, name: str) -> Path:
    """A new folder `name` beside the checkpoint `source` with its model, without the training state.

    Hard links where the disk has them. Raises OSError.
    """
    copy = source.parent / name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in model_files(source):
        link_or_copy(path, copy / path.name)
    return copy


def discard(path: Path) -> None:
    """Removes a folder. It is renamed first, so that a kill in the middle leaves no half checkpoint. Raises OSError."""
    doomed = path.with_name(f"tmp.discarded.{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _best_step(best: Path) -> int | None:
    """The step whose model `checkpoint-best` holds, None if that cannot be read."""
    try:
        step: int = json.loads((best / STATE).read_text())["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step
