"""The worker processes of one attempt on this machine.

They are forked from a process that has imported what they need and touched no device: a start costs one import of
torch and transformers, however many workers and attempts there are.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from distrain_trainer.console import debug
from distrain_trainer.errors import FailureReport, LostPeer, Stopped
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.tee import Tee
from distrain_trainer.launch.termination import ERROR_FILE, read_error_file

SECONDS_TO_FOLLOW = 20.0
"""How long the other workers get to leave by themselves when one was stopped or has lost another."""
KILLED = 128 + signal.SIGKILL


Work = Callable[[list[str]], NoReturn]
"""The worker program: takes its arguments and ends the process that it runs in."""


class Workers:
    """The running workers. Each has a session of its own, so that the terminal's Ctrl-C reaches only us.

    work: what each of them does. arguments: of that. port: on node 0, where their process group meets. log: takes what
    they print; what the first of this machine prints also comes out here. scratch: an empty folder for their error
    files.
    """

    def __init__(self, work: Work, arguments: list[str], node: Node, port: int, log: Path, scratch: Path):
        self.failures: list[FailureReport] = []
        self._work, self._arguments, self._node, self._log, self._scratch = work, arguments, node, log, scratch
        self._running: dict[int, int] = {}
        self._deadline = float("inf")
        environment = _environment(node, port)
        with suppress(OSError):  # of a volume that is read-only here, which the preflight finds out
            log.parent.mkdir(parents=True, exist_ok=True)
        self._tee = Tee(log)
        for local_rank in range(node.processes):
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._become_worker(local_rank, environment)
            self._running[pid] = local_rank
            if local_rank == 0:
                self._tee.start()

    def over(self) -> bool:
        """Notes who has ended, and ends the rest where one has failed; whether nobody is left."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            local_rank, code = self._running.pop(pid, None), os.waitstatus_to_exitcode(status)
            if local_rank is not None and code != 0:
                self._note(local_rank, code if code > 0 else 128 - code)
        if time.monotonic() > self._deadline:
            self.kill()
        return not self._running

    def ask(self) -> None:
        """Asks all to save and leave."""
        for pid in self._running:
            os.kill(pid, signal.SIGUSR1)

    def kill(self) -> None:
        """Ends what is left of them at once; nothing that they have not published is lost."""
        self._deadline = float("inf")
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> None:
        """Waits until nobody is left."""
        while not self.over():
            time.sleep(0.02)
        self._tee.close()

    def cause(self) -> FailureReport | None:
        """The failure that explains the others: a lost peer is not the cause if there is another."""
        causes = [report for report in self.failures if report.exit_code != LostPeer.exit_code]
        return next(iter(causes or self.failures), None)

    def _note(self, local_rank: int, code: int) -> None:
        rank = self._node.index * self._node.processes + local_rank
        said = read_error_file(self._error_file(local_rank))
        if said is not None:
            sentence = said.sentence
        elif code == 128 + signal.SIGUSR1:
            code, sentence = Stopped.exit_code, "stopped before the first step; start the same command again"
        else:
            sentence = f"process {rank}{_death(code, self._log)}"
        debug(f"process {rank} has left with {code}: {sentence}")
        self.failures.append(FailureReport(code, sentence, rank, self._node.name or None))
        if code in (Stopped.exit_code, LostPeer.exit_code):
            self._deadline = min(self._deadline, time.monotonic() + SECONDS_TO_FOLLOW)
        else:
            self.kill()

    def _become_worker(self, local_rank: int, environment: dict[str, str]) -> NoReturn:
        """The life of a worker."""
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for name in ("RANK", "WORLD_SIZE"):  # in a PyTorchJob they count nodes
                os.environ.pop(name, None)
            os.environ |= environment
            if "WORLD_SIZE" in environment:
                rank = self._node.index * self._node.processes + local_rank
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(local_rank)}
            os.environ[ERROR_FILE] = str(self._error_file(local_rank))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if local_rank == 0:
                self._tee.connect()
            else:
                self._tee.leave()
                with suppress(OSError):  # its messages then stand between those of the first
                    log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                    os.dup2(log, 1)
                    os.dup2(log, 2)
            self._work(self._arguments)
        finally:
            os._exit(70)

    def _error_file(self, local_rank: int) -> Path:
        return self._scratch / f"error-{local_rank}.json"


def _environment(node: Node, port: int) -> dict[str, str]:
    """What all workers' environments say; nothing about a group where there is only one."""
    common = {"OMP_NUM_THREADS": str(threads_for(node.processes)), "TOKENIZERS_PARALLELISM": "true"}
    world = node.count * node.processes
    if world == 1:
        return common
    group = {
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": node.processes,
        "MASTER_ADDR": "127.0.0.1" if node.first else node.address,
        "MASTER_PORT": port,
    }
    return common | {name: str(value) for name, value in group.items()}


def _death(code: int, log: Path) -> str:
    if code == KILLED:
        return " was killed (out of memory, or by hand)"
    if code > 128:
        return f" was ended by {signal.Signals(code - 128).name}"
    return f" ended with {code}; see {log}"
