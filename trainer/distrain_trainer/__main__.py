"""The worker program: one process of a run. The supervisor, torchrun or `accelerate launch` start it.

Its arguments are those of `distrain train`. What fails is one sentence: in the file that the launcher names, together
with the exit code, or else on stderr.
"""

import faulthandler
import logging
import os
import signal
import sys
import warnings
from argparse import Namespace
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distrain_trainer import console
from distrain_trainer.cli import Parser
from distrain_trainer.errors import FailureReport, SettingsError, StopNow, TrainingError
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import speaker
from distrain_trainer.launch.parent import die_with_parent
from distrain_trainer.launch.signs import Section, Signs, signs_file
from distrain_trainer.launch.termination import leave, report_of, write_error_file
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings, split_flags

if TYPE_CHECKING:
    from distrain_trainer.training.session import TrainingSession

OPTIONS = {
    **{"resume": False, "overwrite": False, "processes": True},
    **{"attempt": True, "previous": True, "signs": True, "check": False},
}

WRAPPING = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
"""How the names of variables begin by which `accelerate launch` describes parallelism."""


def main(arguments: list[str]) -> NoReturn:
    """Runs one worker and leaves with its exit code."""
    cluster: ClusterEnvironment | None = None
    settings: Settings | None = None
    try:
        forget_wrapping()
        options, flags = parsed(arguments)
        if options.attempt:
            die_with_parent()
        signs = watched(options.signs, int(os.environ.get("LOCAL_RANK", 0)))
        cluster = ClusterEnvironment.read()
        settings = read_settings(options.file, flags)
        console.configure(settings.log_level, speaker())
        quieten_libraries()
        # What it returns is kept, and an error is not let out of its `except`: see `leave`.
        _kept = train(settings, options.resume, options.attempt, options.previous, signs, options.check)
        leave(0)
    except (Exception, StopNow) as error:  # whatever it is, the launcher must hear of it
        node = cluster.node_name if cluster else None
        report = reported(error, int(os.environ.get("RANK", 0)), node, settings)
        write_error_file(report)
        leave(report.exit_code)


def reported(error: Exception | StopNow, rank: int, node: str | None, settings: Settings | None) -> FailureReport:
    """How an error ends this process, as of `report_of`. settings: of the run, None where they could not be read."""
    with suppress(Exception):  # whatever is wrong with this, the launcher must hear of the first error
        from distrain_trainer.training.out_of_memory import is_out_of_memory, shortage_sentence

        if is_out_of_memory(error):
            return FailureReport(TrainingError.exit_code, shortage_sentence(error, settings), rank, node)
    return report_of(error, rank, node)


def forget_wrapping() -> None:
    """Removes the variables by which `accelerate launch` says how a model is loaded and wrapped, which transformers and
    Accelerate would follow: settings say that here."""
    for name in [name for name in os.environ if name.startswith(WRAPPING)]:
        del os.environ[name]


def parsed(arguments: list[str]) -> tuple[Namespace, dict[str, str]]:
    """The worker's own options, and the settings among its arguments, of which the first may be the word `train`.

    Raises SettingsError.
    """
    flags, rest = split_flags(arguments[1:] if arguments[:1] == ["train"] else arguments, OPTIONS)
    parser = Parser(prog="python -m distrain_trainer", allow_abbrev=False)
    parser.add_argument("file", nargs="?", help="settings, YAML or JSON")
    parser.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    parser.add_argument("--overwrite", action="store_true", help="for `distrain train` alone")
    parser.add_argument("--processes", help="for `distrain train` alone")
    parser.add_argument("--attempt", type=int, help="number of this attempt, from the supervisor")
    parser.add_argument("--check", action="store_true", help="check the machines first, from the supervisor")
    parser.add_argument("--signs", type=Path, help="folder for signs of life, from the supervisor")
    parser.add_argument("--previous", help="what the run that is replaced will be called, from the supervisor")
    options = parser.parse_args(rest)
    if options.processes is not None:
        raise SettingsError(
            "--processes is for distrain train, which starts processes itself; this program is one of them, so give "
            "their number to its launcher, such as torchrun --nproc-per-node, or run distrain train"
        )
    if options.overwrite:
        raise SettingsError("--overwrite is for distrain train; remove the old run's folder first, or run that")
    return options, flags


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
    check: bool = False,
) -> "TrainingSession | None":
    """Trains as `training.run` does, and reports what a person reads last. Raises DistrainError."""
    from distrain_trainer.hub.result import push_result
    from distrain_trainer.inference.samples import add_answers
    from distrain_trainer.parallel.collectives import ProcessRank
    from distrain_trainer.storage.lock import hold
    from distrain_trainer.training.results import closing_sentences
    from distrain_trainer.training.run import run

    # Our own launcher holds the folder, others do not.
    holds = attempt is None and ProcessRank.from_environment().is_main
    with hold(Path(settings.output_dir)) if holds else nullcontext():
        session = run(settings, resume, attempt, previous, signs, check)
        if session is not None and session.process.is_main:
            add_answers(session)  # the other processes do not wait for them, nor for trackers
            if session.sender is not None:
                session.sender.end("finished")
            for sentence in closing_sentences(session):
                session.say(sentence)
        if holds:
            push_result(settings, stop=lambda: False)
    return session


def preload() -> None:
    """Imports what a worker needs, so that workers that are forked afterwards share it and need not.

    All but bitsandbytes, which peft imports where it is installed: it looks at the GPUs, and after that no forked
    process can use them. Workers import it where a model is quantized.
    """
    imported = sys.modules.get("bitsandbytes")
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        quieten_libraries()
        for module in ("training.run", "inference.samples"):
            import_module(f"distrain_trainer.{module}")
    finally:
        sys.modules.pop("bitsandbytes")
        if imported is not None:
            sys.modules["bitsandbytes"] = imported


def quieten_libraries() -> None:
    """Leaves the terminal to this program: what libraries say of their own loading and future is no news."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("DeepSpeed", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(is_news)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def is_news(record: logging.LogRecord) -> bool:
    """Whether what a library logs is more than that there is no GPU, or no faster kernel for a CPU."""
    return not record.getMessage().startswith(("Setting accelerator to CPU", "Failed to load CPU gemm_4bit_forward"))


if __name__ == "__main__":
    main(sys.argv[1:])
