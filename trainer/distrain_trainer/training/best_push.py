"""Pushing the best model while the run goes on (`hub.when: best`). On process 0."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError
from distrain_trainer.hub.background import PushProcess
from distrain_trainer.hub.pushed import note_push, pushed_step, step_of
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.sections import Hub
from distrain_trainer.storage.attempts import Fence
from distrain_trainer.storage.layout import BEST, STATE
from distrain_trainer.training.checkpoint.format import reason
from distrain_trainer.training.checkpoint.retention import copy_model


class BestPush:
    """Pushes `checkpoint-best` in a process of its own, from a copy: the run may replace it meanwhile.

    fence: of this attempt. One push is under way at a time, and after it comes the best model of then. What fails is
    said once; the push at the end of the run brings what is missing, or warns.
    """

    def __init__(self, folder: Path, asked: Hub, fence: Fence, attempt: int):
        assert asked.repo is not None
        self._folder, self._asked, self._repo, self._fence = folder, asked, asked.repo, fence
        self._copy = f"tmp.hub.{attempt}"
        self._push: PushProcess | None = None
        self._tried: int | None = pushed_step(folder, asked.repo, BEST, finished=False)
        self._told = False

    def look(self) -> None:
        """Begins a push where there is a new best model and none is under way. Raises Superseded."""
        self._collect()
        best = self._folder / BEST
        step = step_of(best)
        if self._push is not None or step in (None, self._tried):
            return
        self._fence.check(lately=True)
        self._tried = step
        try:
            copy = copy_model(best, self._copy)
            shutil.copy2(best / STATE, copy / STATE)
            self._push = PushProcess(copy, self._asked, report=None, quiet=True)
        except OSError as error:
            self._remove_copy()
            self._tell(reason(error))

    def close(self) -> None:
        """Ends the push that is under way."""
        self._collect()
        if self._push is not None:
            self._push.kill()
        self._remove_copy()

    def _collect(self) -> None:
        """Notes how the push has ended that was under way."""
        if self._push is None or not self._push.over:
            return
        push, self._push = self._push, None
        self._remove_copy()
        try:
            note_push(self._folder, push.result(), BEST, self._tried, finished=False)
        except DistrainError as error:
            self._tell(str(error))
        except OSError:  # it is then pushed again, which changes nothing
            pass

    def _remove_copy(self) -> None:
        """Gives back the room of a model that the run may have replaced meanwhile."""
        shutil.rmtree(self._folder / self._copy, ignore_errors=True)

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            say(
                f"the best model, of step {self._tried}, is not pushed yet: {why}; training goes on, and it is tried "
                "again with the next best one and at the end"
            )


@contextmanager
def pushing_best(
    folder: Path, asked: Hub, process: ProcessRank, fence: Fence, attempt: int
) -> Iterator[Callable[[], None]]:
    """What to call when a checkpoint is published: it does nothing except on process 0 with `hub.when: best`."""
    if not process.is_main or asked.repo is None or asked.when != "best":
        yield lambda: None
        return
    push = BestPush(folder, asked, fence, attempt)
    try:
        yield push.look
    finally:
        push.close()
