"""Programs are started here: each with a time-out, one progress line for each step."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

CACHE = Path(os.environ.get("KIND_CACHE") or Path.home() / ".cache/distrain-kind")
BIN = CACHE / "bin"
LAST_FAILURE = CACHE / "last-failure.log"
SHOWN_LINES = 15


class Failure(Exception):
    """What went wrong, where, and what to do about it."""


def run(
    *command: str | Path,
    timeout: float = 60,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """The finished command with its output; a Failure when it is not there, takes too long or (with check) fails."""
    words = [str(word) for word in command]
    shown = " ".join(words[:8]) + (" ..." if len(words) > 8 else "")
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Failure(f"{words[0]} is not there: install it, or run `make kind-up`") from error
    try:
        out, err = process.communicate(stdin, timeout)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Failure(f"`{shown}` did not end in {timeout:.0f} s") from None
        raise
    if check and process.returncode:
        lines = (err.strip() or out.strip()).splitlines()
        message = f"`{shown}` ended with {process.returncode}: "
        if len(lines) > SHOWN_LINES:
            LAST_FAILURE.write_text("\n".join([" ".join(words), *lines]) + "\n")
            message = f"{message}(all of it is in {LAST_FAILURE}) "
        raise Failure(message + "\n".join(lines[-SHOWN_LINES:]))
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Says on stderr what is being done, and how long it took."""
    started = time.monotonic()
    print(f"{text} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
