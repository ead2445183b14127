"""How a process of a run ends where it has not finished: an exit code for the cluster, and a sentence for a person.

A worker leaves its report in a file that the launcher names; a supervisor leaves its own where Kubernetes looks for it.
"""

import json
import os
import platform
import re
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn, TextIO

from distrain_trainer import console
from distrain_trainer.errors import (
    DataError,
    DistrainError,
    FailureReport,
    LostPeer,
    RunFailed,
    StopNow,
    Stopped,
    TrainingError,
    is_retried,
)
from distrain_trainer.secrets import without_secrets
from distrain_trainer.storage.retry import is_transient

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""The variable in which a launcher, this one or torchrun, names the file that takes a worker's report."""
TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes looks for a container's last message."""
STOPPED_EARLY = FailureReport(Stopped.exit_code, "stopped before the first step; start it again with --resume")
"""Of a worker that was asked to stop before there is anything to save."""


def report_of(error: Exception | StopNow, rank: int | None, node: str | None) -> FailureReport:
    """How an error ends a worker. rank: of its process. node: Kubernetes' name of the machine, where it is known.

    The traceback of an error that is neither the user's nor the cluster's is printed.
    """
    if isinstance(error, DistrainError):
        return FailureReport.of(error, rank, node)
    if isinstance(error, StopNow):
        return replace(STOPPED_EARLY, rank=rank, node=node)
    try:
        report = _unforeseen(error, node)
    except Exception as another:  # even so the launcher hears of the first
        report = FailureReport(TrainingError.exit_code, f"unforeseen error: {error!r}, and then {another!r}")
    return replace(report, rank=rank, node=node)


def _unforeseen(error: Exception, node: str | None) -> FailureReport:
    import torch

    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):
        return FailureReport(TrainingError.exit_code, f"the GPU's memory is used up ({text}); give it more memory")
    if isinstance(error, torch.distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Gloo")):
        return FailureReport(LostPeer.exit_code, f"lost another process of the run ({text})", follows=True)
    if isinstance(error, torch.AcceleratorError):
        if "device-side assert" in str(error):
            return FailureReport(DataError.exit_code, _out_of_range(text))
        return FailureReport(LostPeer.exit_code, _gpu_failed(text, node))
    killed = re.search(r"DataLoader worker \(pid.*killed by signal: Killed", str(error))
    if killed:
        return FailureReport(128 + signal.SIGKILL, _loader_killed(text))
    print_traceback(error)
    if isinstance(error, OSError) and is_transient(error):
        sentence = f"a file system or the network failed ({text}); it may answer again later"
        return FailureReport(LostPeer.exit_code, sentence, passes=True)
    return FailureReport(TrainingError.exit_code, f"unforeseen error: {text}")


def print_traceback(error: Exception, file: TextIO | None = None) -> None:
    """Prints the traceback of an error, without secrets. file: stderr by default."""
    print(without_secrets("".join(traceback.format_exception(error))), end="", file=file or sys.stderr)


def _out_of_range(text: str) -> str:
    return (
        f"an assertion failed on the GPU ({text}), as it does for a token or a label that the model does not have; "
        "check that tokenizer and labels belong to the model, and set CUDA_LAUNCH_BLOCKING=1 to see the operation"
    )


def _loader_killed(text: str) -> str:
    return f"a data loader's process was killed, most often because memory is used up ({text}); lower data.workers"


def _gpu_failed(text: str, node: str | None) -> str:
    if node is None:
        return f"the GPU of this process failed ({text}); see dmesg of the node for its Xid"
    return (
        f"a GPU of {node} failed ({text}); see dmesg there for its Xid, and put {node} into avoidNodes of the chart "
        "where it fails again"
    )


def write_error_file(report: FailureReport) -> None:
    """Leaves a worker's report where the launcher looks for it; without a launcher, tells the person."""
    path = os.environ.get(ERROR_FILE)
    if path is None:
        console.error(report.sentence)
        return
    for_torchrun = {"message": report.sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
    try:
        Path(path).write_text(json.dumps({"message": for_torchrun, "report": asdict(report)}))
    except OSError as error:  # the supervisor then has the exit code alone
        console.error(f"{report.sentence} ({path} could not be written: {error.strerror})")


def read_error_file(path: Path) -> FailureReport | None:
    """The report of a worker, None where it has left none that can be read."""
    try:
        return FailureReport.read(json.loads(path.read_text())["report"])
    except (OSError, ValueError, KeyError):
        return None


def leave(code: int) -> NoReturn:
    """Ends the process without taking the model and its process group apart.

    Their destructors wait for threads that wait for Python, which now and then is for ever; all that matters is on
    disk.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def last_words(error: Exception, asked: bool, folder: Path | None, failure_file: Path | None = None) -> int:
    """Says what has ended this node's part of a run, to the person and the cluster, and returns the exit code.

    asked: whether it was asked to stop. Exit codes count even while a pod is being deleted, so none may then end the
    job for good. folder: the run's; it keeps the traceback of an error that nobody has foreseen. failure_file: where
    the service that started this process looks for why the run has failed, None where it does not.
    """
    match error:
        case RunFailed():
            report = error.report
        case DistrainError():
            report = FailureReport.of(error)
        case _:  # ours, and no reason to give the run up
            sentence = f"unforeseen error of the supervisor: {type(error).__name__}: {error}"
            report = FailureReport(LostPeer.exit_code, sentence)
            print_traceback(error)
            with suppress(OSError):
                if folder and folder.is_dir():
                    _keep(error, folder / "errors")
    console.error(report.sentence)
    with suppress(OSError):
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_text(report.sentence[:4000])
    code = Stopped.exit_code if asked and not is_retried(report.exit_code) else report.exit_code
    if failure_file and code != Stopped.exit_code:
        with suppress(OSError):
            failure_file.parent.mkdir(parents=True, exist_ok=True)
            failure_file.write_text(report.sentence[:1024])  # SageMaker shows no more
    return code


def _keep(error: Exception, folder: Path) -> None:
    """Adds the traceback to this machine's file: the log of a pod is gone when it has been replaced. Raises OSError."""
    folder.mkdir(exist_ok=True)
    with (folder / f"supervisor-{platform.node()}.txt").open("a") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n")
        print_traceback(error, file)
