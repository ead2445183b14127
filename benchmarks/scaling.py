"""distrain on 1, 2 and 4 processes of one thread each: the same steps, so only the clock differs.

Writes a table and a plot.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from report import COLOURS, RESULTS, Goal, axes, goals_table, machine, save, say, spread, table
from rows import synthetic
from running import Steps, run_distrain, write_settings

WORLDS = (1, 2, 4)
BATCH = {"tokens": 1024, "micro_batches": 4}
WARM_UP, STEPS = 2, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often the worlds take turns (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a few steps each: shows that it works, measures nothing")
    parser.add_argument("--output", type=Path, help=f"folder for table and plot (default: {RESULTS}; quick: none)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        output = options.output or (Path(folder) if options.quick else RESULTS)
        measure(Path(folder), output, 1 if options.quick else options.rounds, options.quick)


def measure(scratch: Path, output: Path, rounds: int, quick: bool) -> None:
    """Lets the worlds take turns, each round on other rows; writes scaling.md and scaling.png."""
    steps = 2 if quick else STEPS
    rates: dict[int, list[float]] = {world: [] for world in WORLDS}
    padding: dict[int, list[float]] = {world: [] for world in WORLDS}
    imbalance: dict[int, list[float]] = {world: [] for world in WORLDS}
    for number in range(rounds):
        settings = synthetic(scratch, seed=number)
        settings |= {"batch": BATCH, "schedule": {"kind": "constant", "max_steps": WARM_UP + steps}}
        for world in WORLDS:
            file = write_settings(scratch / f"{number} {world}", settings)
            speed = Steps.of_distrain(run_distrain(file, world, cores=world)).speed(WARM_UP)
            plan = json.loads((file.parent / "out" / "settings.json").read_text())["plan"]
            shutil.rmtree(file.parent)
            rates[world].append(speed.tokens_per_second)
            padding[world].append(speed.padding)
            imbalance[world].append(plan["imbalance"])
            say(f"round {number + 1} of {rounds}: {name(world)}: {speed.tokens_per_second:,.0f} real tokens/s")

    cores = len(os.sched_getaffinity(0))
    speedups = {world: [a / b for a, b in zip(rates[world], rates[1], strict=True)] for world in WORLDS}
    rows = [
        [
            name(world) + (f" on {cores} cores" if world > cores else ""),
            spread(rates[world], 0),
            spread(speedups[world]),
            f"{statistics.median(padding[world]):.1%}",
            f"{statistics.median(imbalance[world]):.2f}",
        ]
        for world in WORLDS
    ]
    crowded = f" This machine has {cores} cores: more processes than that share them." if max(WORLDS) > cores else ""
    goal = Goal(name(2), name(1), 1.7)
    text = (
        f"{machine()} One thread a process; 4 micro-batches of at most 1,024 tokens a step, the same steps "
        f"for any number of processes.{crowded} Median (lowest-highest), alternating rounds: {rounds}.\n\n"
        f"{table(['', 'real tokens/s', 'speed-up', 'padding', 'slowest process / mean'], rows)}\n"
        f"{goals_table([goal], {name(world): rates[world] for world in WORLDS})}"
    )
    save(output, "scaling", "Scaling", text, plot(speedups, cores), quick)


def name(world: int) -> str:
    return f"{world} process{'es' if world > 1 else ''}"


def plot(speedups: dict[int, list[float]], cores: int) -> Figure:
    """Speed-up over processes: a dot a round, a line through the medians, and what were ideal."""
    figure, lines = axes("Speed-up over one process", "processes, one thread each", "")
    worlds = list(speedups)
    lines.plot(worlds, [min(world, cores) for world in worlds], "--", color="#999999", label=f"ideal on {cores} cores")
    middles = [statistics.median(speedups[world]) for world in worlds]
    lines.plot(worlds, middles, "-", color=COLOURS["distrain"], label="distrain, median")
    for world, middle in zip(worlds, middles, strict=True):
        lines.plot([world] * len(speedups[world]), speedups[world], "o", color=COLOURS["distrain"], markersize=5)
        lines.annotate(f"{middle:.2f}", (world, middle), xytext=(6, -14), textcoords="offset points")
    lines.set_xticks(worlds)
    lines.set_ylim(bottom=0)
    lines.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
