"""The worker program: one process of a run. The supervisor, torchrun or `accelerate launch` start it.

Its arguments are those of `distrain train`. What fails is one sentence: in the file that the launcher names, together
with the exit code, or else on stderr.
"""

import argparse
import os
import sys
from importlib import import_module
from typing import NoReturn

from distrain_trainer import console
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import speaker
from distrain_trainer.launch.termination import leave, report_of, write_error_file
from distrain_trainer.settings.reader import read_settings, split_flags
from distrain_trainer.training.stop import die_with_parent

OPTIONS = {"resume": False, "attempt": True}


def main(arguments: list[str]) -> NoReturn:
    """Runs one worker and leaves with its exit code."""
    flags, rest = split_flags(arguments, OPTIONS)
    parser = argparse.ArgumentParser(prog="python -m distrain_trainer", allow_abbrev=False)
    parser.add_argument("file", nargs="?", help="settings, YAML or JSON")
    parser.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    parser.add_argument("--attempt", type=int, help="number of this attempt, from the supervisor")
    options = parser.parse_args(rest)
    if options.attempt:
        die_with_parent()
    cluster: ClusterEnvironment | None = None
    try:
        cluster = ClusterEnvironment.read()
        settings = read_settings(options.file, flags)
        console.configure(settings.log_level, speaker())
        quieten_libraries()
        from distrain_trainer.training.run import run

        # What it returns is kept, and an error is not let out of its `except`: see `leave`.
        _kept = run(settings, options.resume, options.attempt)
        leave(0)
    except Exception as error:  # whatever it is, the launcher must hear of it
        report = report_of(error, int(os.environ.get("RANK", 0)), cluster.node_name if cluster else None)
        write_error_file(report)
        leave(report.exit_code)


def preload() -> None:
    """Imports what a worker needs, so that workers that are forked afterwards share it and need not."""
    import_module("distrain_trainer.training.run")


def quieten_libraries() -> None:
    """Leaves the terminal to this program: what libraries say of their own loading is no news."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main(sys.argv[1:])
