"""Starts the worker processes of a run on this machine, passes signals on, and says how it ended.

Workers are forked from a process that has imported everything and started nothing (no thread, no device): a start
costs one import of torch and transformers however many workers there are. A run ends with its workers: all 0 is 0;
otherwise the first error of the first process that failed decides, and the rest are ended. Ctrl-C or SIGTERM asks the
workers to save and leave (143); a second Ctrl-C leaves at once (130).
"""

import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from distrain_trainer.progress import say
from distrain_trainer.threads import threads_for

LOST_PEER = 138
STOPPED = 143
SECONDS_TO_FOLLOW = 20.0
"""How long the other workers get to leave by themselves when one was stopped or has lost another."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended. code: as a shell gives it, 128 + n for signal n. sentence: what it said, if anything."""

    rank: int
    code: int
    sentence: str | None


def supervise(arguments: list[str], world: int, attempt: int, folder: Path) -> int:
    """Runs `world` workers with these arguments to their end; returns the exit code of the run.

    arguments: of the worker program. attempt: number of this attempt. folder: the run's, for the workers' logs.
    """
    log = folder / "logs" / f"node-0.attempt-{attempt}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="distrain-") as scratch:
        workers = _Workers([*arguments, "--attempt", str(attempt)], world, Path(scratch), log)
        endings = workers.wait()
    if not endings:
        return 0
    first = _cause(endings)
    if workers.stop_asked and first.code in (STOPPED, 128 + signal.SIGUSR1):
        say(f"distrain: {first.sentence or 'stopped before the first step; start the same command again'}")
        return STOPPED
    where = f"process {first.rank} of {world}: " if world > 1 and first.sentence is None else ""
    say(f"distrain: {where}{first.sentence or _death(first.code, log)}")
    return first.code


class _Workers:
    """The running workers. Each has a session of its own, so that the terminal's Ctrl-C reaches only us."""

    def __init__(self, arguments: list[str], world: int, scratch: Path, log: Path):
        self.arguments, self.scratch, self.log = arguments, scratch, log
        self.stop_asked, self.interrupts = False, 0
        self._ranks: dict[int, int] = {}
        os.environ.update(_environment(world))
        from distrain_trainer import __main__ as worker
        from distrain_trainer import run  # noqa: F401, imported here so that no worker has to

        self._main = worker.main
        signal.signal(signal.SIGALRM, lambda number, frame: self._kill())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        for rank in range(world):
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._work(rank, world)
            self._ranks[pid] = rank
        if self.stop_asked:
            self._ask()

    def wait(self) -> list[Ending]:
        """Waits for all; returns those that did not end with 0, in the order in which they ended."""
        endings: list[Ending] = []
        while self._ranks:
            pid, status = os.waitpid(-1, 0)
            rank = self._ranks.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if rank is None or code == 0:
                continue
            endings.append(Ending(rank, code if code > 0 else 128 - code, self._sentence(rank)))
            if endings[-1].code in (STOPPED, LOST_PEER):
                signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_FOLLOW)
            else:
                self._kill()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return endings

    def _work(self, rank: int, world: int) -> NoReturn:
        """The life of a worker."""
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            if world > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ["TORCHELASTIC_ERROR_FILE"] = str(self._error_file(rank))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if rank:
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(log, 1)
                os.dup2(log, 2)
            self._main(self.arguments)
        finally:
            os._exit(70)

    def _error_file(self, rank: int) -> Path:
        return self.scratch / f"error-{rank}.json"

    def _sentence(self, rank: int) -> str | None:
        try:
            return json.loads(self._error_file(rank).read_text())["message"]["message"]
        except (OSError, ValueError, KeyError):
            return None

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1:
            self._kill()
            for pid in self._ranks:
                os.waitpid(pid, 0)
            os._exit(130)
        if not self.stop_asked:
            say("stopping: the run is saved at the end of this step; Ctrl-C again leaves at once")
        self.stop_asked = True
        self._ask()

    def _ask(self) -> None:
        for pid in self._ranks:
            os.kill(pid, signal.SIGUSR1)

    def _kill(self) -> None:
        """Ends what is left of the workers."""
        for pid in self._ranks:
            os.kill(pid, signal.SIGKILL)


def processes_here() -> int:
    """Processes to start on this machine: one a GPU, or one without GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(len([device for device in visible.split(",") if device.strip() not in ("", "-1")]), 1)
    return max(len(list(Path("/dev").glob("nvidia[0-9]*"))), 1)


def _environment(world: int) -> dict[str, str]:
    """What all workers' environments say; nothing about a group where there is only one."""
    common = {"OMP_NUM_THREADS": str(threads_for(world)), "TOKENIZERS_PARALLELISM": "true"}
    if world == 1:
        return common
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    group = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return common | {name: str(value) for name, value in group.items()}


def _cause(endings: list[Ending]) -> Ending:
    """The ending that explains the others: one that lost a peer is not the cause if there is another."""
    causes = [ending for ending in endings if ending.code != LOST_PEER]
    told = [ending for ending in causes if ending.sentence]
    return (causes if causes and causes[0].code == 128 + signal.SIGKILL else told or causes or endings)[0]


def _death(code: int, log: Path) -> str:
    if code == 128 + signal.SIGKILL:
        return "killed (out of memory, or by hand); --resume goes on from the newest checkpoint"
    if code > 128:
        return f"ended by {signal.Signals(code - 128).name}; --resume goes on from the newest checkpoint"
    return f"ended with {code}; see {log}"
