"""How `distrain train` ends where it has not finished: an exit code for the cluster, and last words."""

import platform
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError, LostPeer, Stopped

TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes looks for a container's last words."""


def last_words(error: Exception, asked: bool, folder: Path | None) -> int:
    """Says what has ended this node's part of a run, to the person and the cluster, and returns the exit code.

    asked: whether it was asked to stop. Exit codes count even while a pod is being deleted, so none may then end the
    job for good. folder: the run's; it keeps the traceback of an error that nobody has foreseen.
    """
    if isinstance(error, DistrainError):
        code, sentence = error.exit_code, str(error)
    else:  # ours, and no reason to give the run up
        code, sentence = LostPeer.exit_code, f"unforeseen error of the supervisor: {type(error).__name__}: {error}"
        traceback.print_exception(error)
        with suppress(OSError):
            if folder and folder.is_dir():
                _keep(error, folder / "errors")
    say(f"distrain: {sentence}")
    with suppress(OSError):
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_text(sentence[:4000])
    return Stopped.exit_code if asked and code < 128 else code


def _keep(error: Exception, folder: Path) -> None:
    """Adds the traceback to this machine's file: the log of a pod is gone when it has been replaced. Raises OSError."""
    folder.mkdir(exist_ok=True)
    with (folder / f"supervisor-{platform.node()}.txt").open("a") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n")
        traceback.print_exception(error, file=file)
