"""Programs of this machine that run beside the cluster until it goes: the registry, kwok."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from cluster.shell import CACHE, Failure

FOLDER = CACHE / "run"


def start(name: str, command: list[str], url: str, timeout: float = 30) -> None:
    """Has the program running with this very command line, and waits until it answers at the URL."""
    if running(name) == command and answers(url):
        return
    stop(name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{name}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, close_fds=True
        )
    file(name).write_text(json.dumps({"pid": process.pid, "command": command}))
    deadline = time.monotonic() + timeout
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            last = "\n".join(log.read_text().splitlines()[-5:])
            stop(name)
            raise Failure(f"{name} did not come up; {log} ends with: {last}")
        time.sleep(0.1)


def running(name: str) -> list[str] | None:
    """The command line of the program that runs under this name."""
    try:
        known = json.loads(file(name).read_text())
        words = Path(f"/proc/{known['pid']}/cmdline").read_bytes().decode().split("\0")[:-1]
    except (OSError, ValueError):
        return None
    return words if words == known["command"] else None


def stop(name: str) -> None:
    if running(name):
        pid = json.loads(file(name).read_text())["pid"]
        deadline = time.monotonic() + 10
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            while running(name):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
    file(name).unlink(missing_ok=True)


def file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def answers(url: str, accept: str = "*/*") -> bool:
    """Whether a program of this machine says yes to a GET, with no proxy between."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(urllib.request.Request(url, headers={"Accept": accept}), timeout=5).close()
    except OSError:
        return False
    return True
