"""The worker program: one process of a run. The supervisor, torchrun or `accelerate launch` start it.

Its arguments are those of `distrain train`. What fails is one sentence: in the file that the launcher names, together
with the exit code, or else on stderr.
"""

import argparse
import faulthandler
import os
import signal
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distrain_trainer import console
from distrain_trainer.errors import StopNow
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import speaker
from distrain_trainer.launch.signs import Section, Signs, signs_file
from distrain_trainer.launch.termination import leave, report_of, write_error_file
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings, split_flags
from distrain_trainer.training.stop import die_with_parent

if TYPE_CHECKING:
    from distrain_trainer.training.session import TrainingSession

OPTIONS = {"resume": False, "attempt": True, "previous": True, "signs": True}


def main(arguments: list[str]) -> NoReturn:
    """Runs one worker and leaves with its exit code."""
    flags, rest = split_flags(arguments, OPTIONS)
    parser = argparse.ArgumentParser(prog="python -m distrain_trainer", allow_abbrev=False)
    parser.add_argument("file", nargs="?", help="settings, YAML or JSON")
    parser.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    parser.add_argument("--attempt", type=int, help="number of this attempt, from the supervisor")
    parser.add_argument("--signs", type=Path, help="folder for signs of life, from the supervisor")
    parser.add_argument("--previous", help="what the run that is replaced will be called, from the supervisor")
    options = parser.parse_args(rest)
    if options.attempt:
        die_with_parent()
    signs = watched(options.signs, int(os.environ.get("LOCAL_RANK", 0)))
    cluster: ClusterEnvironment | None = None
    try:
        cluster = ClusterEnvironment.read()
        settings = read_settings(options.file, flags)
        console.configure(settings.log_level, speaker())
        quieten_libraries()
        # What it returns is kept, and an error is not let out of its `except`: see `leave`.
        _kept = train(settings, options.resume, options.attempt, options.previous, signs)
        leave(0)
    except (Exception, StopNow) as error:  # whatever it is, the launcher must hear of it
        report = report_of(error, int(os.environ.get("RANK", 0)), cluster.node_name if cluster else None)
        write_error_file(report)
        leave(report.exit_code)


def watched(folder: Path | None, local_rank: int) -> Signs:
    """The signs of life of this process, which writes where it is when the supervisor asks for it (SIGUSR2).

    folder: of the supervisor, None where nobody watches.
    """
    if folder is None:
        return Signs(None)
    faulthandler.register(signal.SIGUSR2, (folder / f"stacks-{local_rank}").open("w"), all_threads=True)
    signs = Signs(signs_file(folder, local_rank))
    signs.give(Section.START)
    return signs


def train(
    settings: Settings,
    resume: bool,
    attempt: int | None = None,
    previous: str | None = None,
    signs: Signs | None = None,
) -> "TrainingSession | None":
    """Trains as `training.run` does, and reports what a person reads last. Raises DistrainError."""
    from distrain_trainer.inference.samples import add_answers
    from distrain_trainer.parallel.collectives import ProcessRank
    from distrain_trainer.storage.lock import hold
    from distrain_trainer.training.results import closing_sentences
    from distrain_trainer.training.run import run

    # Our own launcher holds the folder, others do not.
    holds = attempt is None and ProcessRank.from_environment().is_main
    with hold(Path(settings.output_dir)) if holds else nullcontext():
        session = run(settings, resume, attempt, previous, signs)
        if session is not None and session.process.is_main:
            add_answers(session)  # the other processes do not wait for them, nor for trackers
            if session.sender is not None:
                session.sender.end("finished")
            for sentence in closing_sentences(session):
                session.say(sentence)
    return session


def preload() -> None:
    """Imports what a worker needs, so that workers that are forked afterwards share it and need not."""
    for module in ("training.run", "inference.samples"):
        import_module(f"distrain_trainer.{module}")


def quieten_libraries() -> None:
    """Leaves the terminal to this program: what libraries say of their own loading is no news."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main(sys.argv[1:])
