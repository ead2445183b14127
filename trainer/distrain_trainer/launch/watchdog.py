"""Finds workers that hang: those that give no sign for much longer than what they do has ever taken.

A step that is merely long is no hang. How long each section takes is learned from the run, and until there is something
to learn from the limits are generous.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distrain_trainer.launch.signs import Section, Sign, read_sign

LEAST = 60.0
"""Seconds without a sign that are never a hang, except of a process that is stopped."""
TIMES = 3.0
"""A section may take so many times as long as the longest of those before."""
UNLEARNED = {
    Section.START: 6 * 3600.0,
    Section.FIRST_STEP: 1800.0,
    Section.STEP: 1800.0,
    Section.DATA: 1800.0,
    Section.EVALUATION: 1800.0,
    Section.CHECKPOINT: 1800.0,
    Section.END: 1800.0,
}
"""Seconds that a section may take before any of its kind has been seen. A start downloads and prepares the data."""
AT_LEAST = {Section.START: 6 * 3600.0, Section.FIRST_STEP: 1800.0, Section.CHECKPOINT: 1800.0, Section.END: 1800.0}
"""Seconds that these may take whatever was learned: compilers and volumes are slow at times."""
STOPPED_STATES = "Tt"
"""States in /proc of a process that somebody has stopped (SIGSTOP, a debugger)."""


@dataclass(frozen=True)
class Hang:
    """A worker of this machine that hangs. seconds: since its last sign. state: of /proc. alone: whether it is not
    where the other workers of this machine are, so that they wait for it and not it for them."""

    local_rank: int
    sign: Sign
    seconds: float
    state: str
    alone: bool

    @property
    def sentence(self) -> str:
        """`has given no sign for 63 s in step 17 (stopped by a signal)`."""
        where = (
            f"in {self.sign.section} {self.sign.step}"
            if self.sign.section is Section.STEP
            else (f"in section {self.sign.section} after step {self.sign.step}")
        )
        why = {"T": " (it was stopped by a signal)", "t": " (a debugger holds it)", "D": " (it waits for a disk)"}
        return f"has given no sign for {self.seconds:.0f} s {where}{why.get(self.state, '')}"


def look(workers: Mapping[int, tuple[int, Path]], now: float) -> Hang | None:
    """Looks at all workers of this machine; the one that hangs, None while none does.

    workers: process id and file of signs by local rank. now: the machine's monotonic clock.
    """
    signs = {rank: sign for rank, (_, path) in workers.items() if (sign := read_sign(path))}
    quiet = {rank: now - sign.at for rank, sign in signs.items() if now - sign.at > LEAST}
    if not quiet:
        return None
    states = {rank: process_state(workers[rank][0]) for rank in signs}
    hanging = [
        rank for rank, seconds in quiet.items() if seconds > limit(signs[rank]) or states[rank] in STOPPED_STATES
    ]
    if not hanging:
        return None
    # The one that the others wait for: stopped, or else behind them, or else silent for longest.
    odd = min(hanging, key=lambda rank: (states[rank] not in STOPPED_STATES, _place(signs[rank]), signs[rank].at))
    alone = states[odd] in STOPPED_STATES or any(_place(signs[odd]) < _place(sign) for sign in signs.values())
    return Hang(odd, signs[odd], quiet[odd], states[odd], alone)


def limit(sign: Sign) -> float:
    """Seconds without another sign after which a worker that has given this one hangs."""
    if not sign.longest:
        return UNLEARNED[sign.section]
    return max(LEAST, TIMES * sign.longest, AT_LEAST.get(sign.section, 0.0))


def process_state(pid: int) -> str:
    """The state letter of a process (R, S, D, T, Z ...), empty where it is gone or this system has no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _place(sign: Sign) -> tuple[int, int]:
    """How far a worker is: by step, and within one by whether it waits for data, which comes before the step."""
    return sign.step, 0 if sign.section is Section.DATA else 1
