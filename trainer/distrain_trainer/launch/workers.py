"""The worker processes of one attempt on this machine.

They are forked from a process that has imported what they need and touched no device: a start costs one import of
torch and transformers, however many workers and attempts there are.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from distrain_trainer.console import debug
from distrain_trainer.errors import FailureReport, LostPeer, OutOfTime, Stopped, TrainingError, is_known
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.launch.node import NODE_COUNT, NODE_INDEX, Node
from distrain_trainer.launch.signs import Section, ask_to_regroup, read_sign, signs_file
from distrain_trainer.launch.tee import Tee
from distrain_trainer.launch.termination import ERROR_FILE, STOPPED_EARLY, read_error_file
from distrain_trainer.launch.watchdog import look, process_state

SECONDS_TO_FOLLOW = 20.0
"""How long the other workers get to leave by themselves when one was stopped or has lost another."""
SECONDS_TO_CONCLUDE = 5.0
"""The same where one has failed by itself: process 0 may be writing the report of it."""
SECONDS_TO_BE_HEARD = 2.0
"""How long a worker that has not begun to train gets to leave when it is asked to: there is nothing to save."""
SECONDS_TO_DIE = 30.0
"""How long the kernel gets to end a worker that is killed; one that waits for a driver or a disk it may never end."""
SECONDS_TO_DUMP = 2.0
"""How long workers get to write where they are when one of them hangs."""
KILLED = 128 + signal.SIGKILL
NEVER = float("inf")
AGREED = (Stopped.exit_code, OutOfTime.exit_code)
"""Exit codes with which all processes leave, each when it is done."""


Work = Callable[[list[str]], NoReturn]
"""The worker program: takes its arguments and ends the process that it runs in."""


class Workers:
    """The running workers. Each has a session of its own, so that the terminal's Ctrl-C reaches only us.

    work: what each of them does. arguments: of that. port: on node 0, where their process group meets. log: takes what
    they print; what the first of this machine prints also comes out here. scratch: an empty folder for their error
    files. nodes: indices of the nodes that take part, in the order of their processes; None for all.
    """

    def __init__(
        self,
        work: Work,
        arguments: list[str],
        node: Node,
        port: int,
        log: Path,
        scratch: Path,
        nodes: Sequence[int] | None = None,
    ):
        arguments = [*arguments, "--signs", str(scratch)]
        self.failures: list[FailureReport] = []
        self._work, self._arguments, self._node, self._log, self._scratch = work, arguments, node, log, scratch
        self._running: dict[int, int] = {}
        self._deadline, self._asked_at, self._killed_at = NEVER, NEVER, NEVER
        self._looked, self._hang = 0.0, (NEVER, FailureReport(LostPeer.exit_code, ""))
        nodes = range(node.count) if nodes is None else nodes
        self._first_rank = nodes.index(node.index) * node.processes
        environment = _environment(node, port, len(nodes))
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
        now = time.monotonic()
        if now > self._deadline:
            self.kill()
        if now > self._killed_at + SECONDS_TO_DIE:
            self._give_up()
        if now > self._asked_at + SECONDS_TO_BE_HEARD:
            self._kill_those_that_start()
        if now > self._looked + 1:
            self._looked = now
            self._watch(now)
        return not self._running

    def ask(self) -> None:
        """Asks all to save and leave."""
        self._asked_at = min(self._asked_at, time.monotonic())
        for pid in self._running:
            os.kill(pid, signal.SIGUSR1)

    def regroup(self, wanted: bool) -> None:
        """Asks all to leave where they publish the next checkpoint, or not to."""
        ask_to_regroup(self._scratch, wanted)

    def kill(self) -> None:
        """Ends what is left of them at once; nothing that they have not published is lost."""
        self._deadline = NEVER
        self._killed_at = min(self._killed_at, time.monotonic())
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> None:
        """Waits until nobody is left that can be ended."""
        while not self.over():
            time.sleep(0.02)
        self._tee.close()

    def cause(self) -> FailureReport | None:
        """The failure that explains the others: a lost peer is not the cause if there is another."""
        causes = [report for report in self.failures if not report.follows]
        return next(iter(causes or self.failures), None)

    def signs(self) -> dict[int, tuple[int, Path]]:
        """Process id and file of signs of those that run, by local rank."""
        return {rank: (pid, signs_file(self._scratch, rank)) for pid, rank in self._running.items()}

    def stacks(self) -> str:
        """Where each worker was when one was found to hang, empty where none was."""
        found = [(path, path.read_text(errors="replace")) for path in sorted(self._scratch.glob("stacks-*"))]
        return "".join(f"--- process {self._rank(int(path.name[7:]))}\n{text}" for path, text in found if text)

    def _watch(self, now: float) -> None:
        """Ends the workers when one of them hangs, after each has written where it is."""
        since, report = self._hang
        if now > since + SECONDS_TO_DUMP:
            self._hang = NEVER, report
            self.failures.append(report)
            self.kill()
        elif since == NEVER and not self.failures and (hang := look(self.signs(), now)):
            rank = self._rank(hang.local_rank)
            sentence = f"process {rank} {hang.sentence}"
            report = FailureReport(LostPeer.exit_code, sentence, rank, self._node.name or None, not hang.alone)
            self._hang = now, report
            for pid in self._running:
                os.kill(pid, signal.SIGUSR2)

    def _kill_those_that_start(self) -> None:
        """A collective or a download does not hear a signal, and before the first step there is nothing to save."""
        for rank, (pid, path) in self.signs().items():
            sign = read_sign(path)
            if sign is None or sign.section is Section.START:
                debug(f"process {self._rank(rank)} has not begun to train and is ended")
                os.kill(pid, signal.SIGKILL)

    def _give_up(self) -> None:
        """Leaves those behind that even SIGKILL does not end, so that the other nodes need not wait for them."""
        for pid, local_rank in self._running.items():
            rank = self._rank(local_rank)
            state = f"state {process_state(pid) or 'unknown'}"
            sentence = (
                f"process {rank} cannot be ended ({state}): it waits for a disk or a driver, and its node needs help"
            )
            self.failures.append(FailureReport(KILLED, sentence, rank, self._node.name or None))
        self._running.clear()

    def _rank(self, local_rank: int) -> int:
        return self._first_rank + local_rank

    def _note(self, local_rank: int, code: int) -> None:
        """Notes how a worker has failed, and gives the others a while to leave by themselves."""
        rank, node = self._rank(local_rank), self._node.name or None
        sign = read_sign(signs_file(self._scratch, local_rank))
        started = sign is not None and sign.section is not Section.START
        report = read_error_file(self._error_file(local_rank))
        if report is None and (code == 128 + signal.SIGUSR1 or (self._asked_at < NEVER and not started)):
            report = STOPPED_EARLY
        elif report is None:
            self._deadline = min(self._deadline, time.monotonic())
            told = code if is_known(code) else TrainingError.exit_code
            report = FailureReport(told, f"process {rank}{_death(code, self._log)}")
        patience = SECONDS_TO_FOLLOW if report.exit_code in AGREED or report.follows else SECONDS_TO_CONCLUDE
        self._deadline = min(self._deadline, time.monotonic() + patience)
        debug(f"process {rank} has left with {report.exit_code}: {report.sentence}")
        self.failures.append(replace(report, rank=rank, node=node))

    def _become_worker(self, local_rank: int, environment: dict[str, str]) -> NoReturn:
        """The life of a worker."""
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for name in ("RANK", "WORLD_SIZE"):  # in a PyTorchJob they count nodes
                os.environ.pop(name, None)
            os.environ |= flight_recorder(self._log) | os.environ | environment
            if "WORLD_SIZE" in environment:
                os.environ |= {"RANK": str(self._rank(local_rank)), "LOCAL_RANK": str(local_rank)}
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
        except BaseException:  # before the program could take care of its own errors
            traceback.print_exc()
        finally:
            os._exit(LostPeer.exit_code)

    def _error_file(self, local_rank: int) -> Path:
        return self._scratch / f"error-{local_rank}.json"


def _environment(node: Node, port: int, taking_part: int) -> dict[str, str]:
    """What all workers' environments say; nothing about a group where there is only one. taking_part: nodes."""
    common = {"OMP_NUM_THREADS": str(threads_for(node.processes)), "TOKENIZERS_PARALLELISM": "true"}
    common |= {NODE_INDEX: str(node.index), NODE_COUNT: str(node.count)}
    world = taking_part * node.processes
    if world == 1:
        return common
    group = {
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": node.processes,
        "MASTER_ADDR": "127.0.0.1" if node.first else node.address,
        "MASTER_PORT": port,
    }
    return common | {name: str(value) for name, value in group.items()}


def flight_recorder(log: Path) -> dict[str, str]:
    """Has NCCL's watchdog write each process's last collectives beside the log, where one of them fails or takes longer
    than the process group waits: `torchfrtrace` finds the process that is not where the others are. Read by torch.
    """
    attempt = log.name.partition(".")[2].removesuffix(".log")
    return {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(log.with_name(f"nccl.{attempt}.rank-").absolute()),
    }


def _death(code: int, log: Path) -> str:
    if code == KILLED:
        return " was killed (out of memory, or by hand)"
    if code - 128 in set(signal.Signals):
        return f" was ended by {signal.Signals(code - 128).name}"
    return f" ended with {code}; see {log}"
