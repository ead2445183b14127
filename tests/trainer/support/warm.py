"""Runs the command in a forked process that has its imports already, as workers are forked, which saves seconds.

A run that a test kills or signals is started as people start it, by `runs.Victim`.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["distrain_trainer.training.run", "distrain_trainer.inference.predict", "distrain_trainer.launch.supervisor"]
)


def run(
    arguments: Sequence[str], folder: Path | str, environment: Mapping[str, str], stdin: str, timeout: float
) -> CompletedProcess[str]:
    """Runs `distrain ARGUMENTS` in a folder to its end. stdin: where it holds a surrogate, a byte that is no UTF-8."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(stdin, errors="surrogateescape")
        process = SERVER.Process(target=_command, args=(arguments, str(folder), dict(environment), files))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        said, errors = (file.read_text() for file in files[1:])
        assert process.exitcode is not None and process.exitcode != -9, f"no end after {timeout} s: {errors}"
        return CompletedProcess([*arguments], process.exitcode, said, errors)


def _command(arguments: Sequence[str], folder: str, environment: Mapping[str, str], files: Sequence[Path]) -> None:
    """Runs in the forked process, with files as its streams."""
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    from distrain_k8s.cli import main

    sys.argv = ["distrain", *arguments]
    main()
