"""What distrain adds to a step: its own loop beside the bare one, taking turns step by step in one process.

Two runs of a minute each differ by what else the machine does meanwhile, which is more than what is looked for here.
So the bare loop has a model and an optimizer of its own and makes its steps where distrain fetches a batch, on the same
batches. Its time is taken out of distrain's, which has everything from one fetch to the next: loading, the step, the
line of metrics.
"""

import shutil
import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure

from contender_bare import BareLoop
from distrain_trainer.data.loader import StepBatch, StepDataset
from distrain_trainer.data.loader import steps as steps_of_plan
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.training import run as trainer
from report import COLOURS, axes, command, folders, machine, save, say, spread, table
from rows import synthetic
from running import write_settings
from throughput import BATCH, WARM_UP

GOAL = 0.97
"""Of the bare loop's real tokens per second."""
BLOCK = 10
"""Steps whose seconds make one ratio."""


class Turns:
    """Seconds of each step of the two loops."""

    def __init__(self, bare: BareLoop):
        self.bare = bare
        self.seconds: dict[str, list[float]] = {"bare loop": [], "distrain": []}

    def taken(self, batches: Iterator[StepBatch]) -> Iterator[StepBatch]:
        """The batches. The bare loop makes its step before an odd batch is handed out, and after an even one.

        So each of the two follows as often on itself as on the other, in whose warm memory it works.
        """
        waiting: list[StepBatch] = []
        loading = 0.0
        for number in count():
            fetched = time.perf_counter()
            batch = next(batches, None)
            loading += time.perf_counter() - fetched
            if batch is not None and number % 2:
                waiting.append(batch)
            for each in waiting:
                started = time.perf_counter()
                self.bare.step(each)
                self.seconds["bare loop"].append(time.perf_counter() - started)
            waiting = [batch] if batch is not None and number % 2 == 0 else []
            if batch is None:
                self.seconds["distrain"].append(loading)
                return
            handed = time.perf_counter()
            yield batch
            self.seconds["distrain"].append(loading + time.perf_counter() - handed)
            loading = 0.0


def measure(scratch: Path, output: Path, steps: int, quick: bool) -> None:
    """One run of distrain with the bare loop inside; writes overhead.md and overhead.png."""
    settings = synthetic(scratch, seed=0) | {"batch": BATCH}
    settings["schedule"] = {"kind": "constant", "max_steps": WARM_UP + steps}
    file = write_settings(scratch / "run", settings)
    read = read_settings(str(file), {})
    turns = Turns(BareLoop(read))

    def steps_in_turns(dataset: StepDataset, start: int, workers: int) -> Iterator[StepBatch]:
        return turns.taken(steps_of_plan(dataset, start, workers))

    try:
        with patch.object(trainer, "steps", steps_in_turns):
            trainer.run(read, resume=False)
    finally:
        shutil.rmtree(file.parent)

    bare, distrain = (turns.seconds[name][WARM_UP : WARM_UP + steps] for name in ("bare loop", "distrain"))
    block = min(BLOCK, steps)
    starts = range(0, steps - block + 1, block)
    ratios = [sum(bare[start : start + block]) / sum(distrain[start : start + block]) for start in starts]
    whole = sum(bare) / sum(distrain)
    say(f"{whole:.3f} of the bare loop's real tokens per second")
    rows = [
        [name, f"{sum(seconds) / steps:.3f}", spread(seconds, 3)]
        for name, seconds in (("distrain", distrain), ("bare loop", bare))
    ]
    text = (
        f"{machine()} One process with all cores, in which the two loops take turns at each of {steps} steps, on the "
        "same batches; rows and batches as in [throughput](throughput.md).\n\n"
        f"{table(['', 'seconds per step, mean', 'median (lowest-highest)'], rows)}\n"
        f"distrain reaches **{whole:.3f}** of the bare loop's real tokens per second over all steps (goal: at least "
        f"{GOAL}); in blocks of {block} steps {spread(ratios, 3)}.\n"
    )
    save(output, "overhead", "What distrain adds to a step", text, plot(ratios, block), quick)


def plot(ratios: list[float], block: int) -> Figure:
    """A dot for each block of steps."""
    figure, dots = axes("distrain's tokens per second over the bare loop's", f"block of {block} steps", "")
    dots.axhline(1, color=COLOURS["bare loop"])
    dots.axhline(GOAL, color=COLOURS["bare loop"], linestyle=":")
    dots.plot(range(1, len(ratios) + 1), ratios, "o", color=COLOURS["distrain"])
    dots.axhline(statistics.median(ratios), color=COLOURS["distrain"])
    dots.set_ylim(min(0.9, *ratios) - 0.02, max(1.1, *ratios) + 0.02)
    return figure


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured (default: 100)")
    options = parser.parse_args()
    with folders(options) as (scratch, output):
        measure(scratch, output, 4 if options.quick else options.steps, options.quick)


if __name__ == "__main__":
    main()
