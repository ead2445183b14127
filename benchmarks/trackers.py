"""What trackers add to a run: the same run with none and with each of them, taking turns.

W&B is offline and MLflow writes into files, so that only what happens on this machine counts. Steps are short, some a
second, which is more lines than most runs have.

Writes a table and a plot.
"""

import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from report import COLOURS, axes, command, folders, machine, save, say, spread, table
from rows import synthetic
from running import Steps, processor_seconds, run_distrain, write_settings

NONE = "no tracker"
CONTENDERS: dict[str, list[str]] = {
    NONE: [],
    "TensorBoard": ["tensorboard"],
    "W&B, offline": ["wandb"],
    "MLflow, in files": ["mlflow"],
    "all three": ["tensorboard", "wandb", "mlflow"],
}
BATCH = {"tokens": 512, "samples": None, "micro_batches": 1}
WARM_UP = 20
"""Steps that are not measured; trackers are imported meanwhile."""
GOAL = 0.97
"""Of the real tokens per second without a tracker."""


@dataclass(frozen=True)
class Cost:
    """A run. rate: real tokens per second. seconds: from the command to its end, with what is sent then. processor:
    seconds that all its processes computed."""

    rate: float
    seconds: float
    processor: float


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often the trackers take turns (default: 3)")
    parser.add_argument("--steps", type=int, default=200, help="steps that are measured (default: 200)")
    options = parser.parse_args()
    with folders(options) as (scratch, output):
        os.environ |= {"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"}
        os.environ["MLFLOW_TRACKING_URI"] = (scratch / "mlruns").as_uri()
        rounds, steps = (1, 10) if options.quick else (options.rounds, options.steps)
        costs = measure(scratch, rounds, steps)
        ratios = {name: ratio(found, costs[NONE]) for name, found in costs.items()}
        save(output, "trackers", "What trackers add to a run", text(costs, ratios, steps), plot(ratios), options.quick)


def measure(scratch: Path, rounds: int, steps: int) -> dict[str, list[Cost]]:
    """Lets the trackers take turns, each round on other rows; what each cost, one run a round."""
    costs: dict[str, list[Cost]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        settings = synthetic(scratch, seed=number) | {"batch": BATCH}
        settings["schedule"] = {"kind": "constant", "max_steps": WARM_UP + steps}
        for place, (name, trackers) in enumerate(CONTENDERS.items()):
            file = write_settings(scratch / f"{number} {place}", settings | {"tracking": {"trackers": trackers}})
            started, computed = time.perf_counter(), processor_seconds()
            rate = Steps.of_distrain(run_distrain(file, processes=1)).speed(WARM_UP).tokens_per_second
            found = Cost(rate, time.perf_counter() - started, processor_seconds() - computed)
            shutil.rmtree(file.parent)
            costs[name].append(found)
            say(f"round {number + 1} of {rounds}: {name}: {found}")
    return costs


def ratio(found: list[Cost], plain: list[Cost]) -> list[float]:
    """Tokens per second over those without a tracker, round by round."""
    return [one.rate / other.rate for one, other in zip(found, plain, strict=True)]


def text(costs: dict[str, list[Cost]], ratios: dict[str, list[float]], steps: int) -> str:
    """The table, and what it is of."""
    rows = [
        [
            name,
            spread([one.rate for one in found], 0),
            spread(ratios[name], 3),
            spread([one.seconds for one in found], 1),
            spread([one.processor for one in found], 1),
        ]
        for name, found in costs.items()
    ]
    head = ["", "real tokens/s", "ratio within a round", "seconds of the command", "seconds of the processor"]
    worst = min(statistics.median(ratios[name]) for name in CONTENDERS)
    return (
        f"{machine()} One process with all cores, {steps} steps after {WARM_UP}, rows as in "
        f"[throughput](throughput.md), one micro-batch of {BATCH['tokens']} tokens a step. What sends to trackers is a "
        "process of its own, which on a machine without a GPU takes its share of the same cores. Median "
        f"(lowest-highest), alternating rounds: {len(costs[NONE])}.\n\n{table(head, rows)}\n"
        f"With the slowest of them training reaches **{worst:.3f}** of the real tokens per second without a tracker "
        f"(goal: at least {GOAL}). The command also waits at its end until trackers have everything.\n"
    )


def plot(ratios: dict[str, list[float]]) -> Figure:
    """A dot for each round."""
    figure, dots = axes("Tokens per second over those without a tracker", "", "")
    dots.axhline(GOAL, color=COLOURS["bare loop"], linestyle=":")
    for name, found in ratios.items():
        dots.plot([name] * len(found), found, "o", color=COLOURS["bare loop" if name == NONE else "distrain"])
    lowest = min(min(found) for found in ratios.values())
    highest = max(max(found) for found in ratios.values())
    dots.set_ylim(min(0.9, lowest) - 0.02, max(1.1, highest) + 0.02)
    return figure


if __name__ == "__main__":
    main()
