"""The worker program: one process of a run. The supervisor, torchrun or `accelerate launch` start it.

Its arguments are those of `distrain train`. What fails is one sentence on stderr and, where the launcher names a file
in TORCHELASTIC_ERROR_FILE, the same sentence with the exit code there.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from distrain_trainer.errors import DistrainError, LostPeer
from distrain_trainer.settings.reader import read_settings, split_flags
from distrain_trainer.storage.retry import is_transient
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
    try:
        settings = read_settings(options.file, flags)
        quieten_libraries()
        from distrain_trainer.training.run import run

        _kept = run(settings, options.resume, options.attempt)
        leave(0)
    except DistrainError as error:
        report(str(error), error.exit_code)
        leave(error.exit_code)
    except Exception as error:  # whatever it is, the launcher must hear of it
        sentence, code = unforeseen(error)
        report(sentence, code)
        leave(code)


def leave(code: int) -> NoReturn:
    """Ends the process without taking the model and its process group apart.

    Their destructors wait for threads that wait for Python, which now and then is for ever; all that matters is on
    disk. Hence, too, a run's return value is kept and errors are not let out of their `except`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def quieten_libraries() -> None:
    """Leaves the terminal to this program: what libraries say of their own loading is no news."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def unforeseen(error: Exception) -> tuple[str, int]:
    """Sentence and exit code of an error that nobody has foreseen."""
    import torch

    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):
        advice = "lower batch.tokens, or set model.gradient_checkpointing or precision=bf16"
        return f"the GPU's memory is used up ({text}); {advice}", DistrainError.exit_code
    if isinstance(error, torch.distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Gloo")):
        return f"lost another process of the run ({text})", LostPeer.exit_code
    if isinstance(error, torch.AcceleratorError):
        return gpu_failed(text, os.environ.get("RUN_NODE_NAME")), LostPeer.exit_code
    if isinstance(error, OSError) and is_transient(error):
        traceback.print_exception(error)
        return f"a file system or the network failed ({text}); it may answer again later", LostPeer.exit_code
    traceback.print_exception(error)
    return f"unforeseen error: {text}", DistrainError.exit_code


def gpu_failed(text: str, node: str | None) -> str:
    """Sentence about a broken GPU; node: Kubernetes' name of the machine, where it is known."""
    if node is None:
        return f"the GPU of this process failed ({text}); see dmesg of the node for its Xid"
    return (
        f"a GPU of {node} failed ({text}); see dmesg there for its Xid, and put {node} into avoidNodes of the chart "
        "where it fails again"
    )


def report(sentence: str, code: int) -> None:
    """Leaves the error where the launcher looks for it; without one, tells the person."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        print(f"distrain: {sentence}", file=sys.stderr)
        return
    message = {"message": sentence, "exit_code": code, "timestamp": str(time.time())}
    Path(path).write_text(json.dumps({"message": message}))


if __name__ == "__main__":
    main(sys.argv[1:])
