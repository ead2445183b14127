"""The push at the end of a run. The run is finished by then, and nothing here changes that."""

import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distrain_trainer.console import say, warn
from distrain_trainer.errors import DistrainError, SettingsError
from distrain_trainer.hub.background import PushProcess
from distrain_trainer.hub.pushed import Pushed, note_push, pushed_step, step_of
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Hub
from distrain_trainer.storage.layout import BEST
from distrain_trainer.storage.run_folder import read_claim

TICK = 0.1


def push_result(settings: Settings, stop: Callable[[], bool]) -> None:
    """Pushes the model of the finished run in `output_dir`, where its settings want that and no attempt has done it.

    stop: whether a person does not want to wait for it any longer. What fails is one warning, with the command to do it
    later.
    """
    folder = Path(settings.output_dir)
    try:
        asked = read_claim(settings, resume=True).settings.hub
    except DistrainError as error:
        warn(f"whether the model was to be pushed to the Hub cannot be read: {error}")
        return
    if asked.repo is None:
        return
    model = folder / (BEST if asked.when == "best" and (folder / BEST).exists() else "final")
    step = step_of(model)
    if pushed_step(folder, asked.repo, model.name, finished=True) == step:
        return
    say(f"pushing {model} to {asked.repo}")
    try:
        pushed = push(folder, model, asked, stop)
    except (DistrainError, OSError) as error:
        later = ["distrain", "push", str(folder), asked.repo]
        later += ["--checkpoint", "best"] if model.name == BEST else []
        later += [] if asked.private else ["--public"]
        warn(f"the model was not pushed: {error}; to push it later: {shlex.join(later)}")
        return
    say(f"on the Hub: {pushed.url}")
    with suppress(OSError):  # it is then pushed again, which changes nothing
        note_push(folder, pushed, model.name, step, finished=True)


def push(folder: Path, model: Path, asked: Hub, stop: Callable[[], bool]) -> Pushed:
    """Pushes a model of the run in `folder`, in a process that `stop` ends. Raises DistrainError, OSError."""
    process = PushProcess(model, asked, folder / "report.html", quiet=False)
    while not process.over:
        if stop():
            process.kill()
            raise SettingsError("it was interrupted")
        time.sleep(TICK)
    return process.result()
