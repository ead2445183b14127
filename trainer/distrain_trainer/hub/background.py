"""A push in a process of its own: it takes no time from the one that trains, and can be ended at any moment."""

import json
import subprocess
import sys
from pathlib import Path

from distrain_trainer.errors import DistrainError
from distrain_trainer.hub.pushed import Pushed
from distrain_trainer.settings.sections import Hub


class PushProcess:
    """A push that is under way.

    folder, asked, report: of `push_model`. quiet: False lets a person know where it waits for the Hub. The process ends
    with the thread that has started it, and has HF_TOKEN from the environment.
    """

    def __init__(self, folder: Path, asked: Hub, report: Path | None, quiet: bool):
        told = {"folder": str(folder), "asked": asked.model_dump(mode="json"), "report": report and str(report)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "distrain_trainer.hub", json.dumps(told)],  # without modules of this folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            start_new_session=True,  # the terminal's Ctrl-C is for the one that trains
        )

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self._process.poll() is not None

    def result(self) -> Pushed:
        """What it has pushed. Waits for its end. Raises DistrainError, with the reason why it has not."""
        said, _ = self._process.communicate()
        try:
            answer = json.loads(said.splitlines()[-1])
        except (ValueError, IndexError):
            code = self._process.returncode
            raise DistrainError(f"the process that pushed ended with {code}") from None
        if "failed" in answer:
            raise DistrainError(answer["failed"])
        return Pushed(**answer)

    def kill(self) -> None:
        """Ends it; the repository is as it was, or has all of the model."""
        self._process.kill()
        self._process.communicate()
