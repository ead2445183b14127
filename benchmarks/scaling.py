"""distrain on 1, 2 and 4 processes of one thread each: the same steps, so only the clock differs.

Writes a table and a plot.
"""

import json
import os
import shutil
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from report import COLOURS, Goal, axes, command, folders, goals_table, machine, save, say, spread, table
from rows import synthetic
from running import Steps, run_distrain, write_settings

WORLDS = (1, 2, 4)
TOKENS = 1024
"""Of a micro-batch, at most."""
STEPS = {16: 4, 4: 10}
"""Micro-batches in a step -> steps that are measured. Gradients are joined once a step, so that large steps scale
better; the goal is for those."""
WARM_UP = 1


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often the worlds take turns (default: 3)")
    options = parser.parse_args()
    with folders(options) as (scratch, output):
        measure(scratch, output, 1 if options.quick else options.rounds, options.quick)


def measure(scratch: Path, output: Path, rounds: int, quick: bool) -> None:
    """Lets the worlds take turns, each round on other rows; writes scaling.md and scaling.png."""
    cells = [(size, world) for size in STEPS for world in WORLDS]
    rates: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    imbalance: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    for number in range(rounds):
        settings = synthetic(scratch, seed=number)
        for size, world in cells:
            steps = WARM_UP + (1 if quick else STEPS[size])
            settings["batch"] = {"tokens": TOKENS, "samples": None, "micro_batches": size}
            settings["schedule"] = {"kind": "constant", "max_steps": steps}
            file = write_settings(scratch / f"{number} {size} {world}", settings)
            speed = Steps.of_distrain(run_distrain(file, world, cores=world)).speed(WARM_UP)
            plan = json.loads((file.parent / "out" / "settings.json").read_text())["plan"]
            shutil.rmtree(file.parent)
            rates[size, world].append(speed.tokens_per_second)
            imbalance[size, world].append(plan["imbalance"])
            say(f"round {number + 1} of {rounds}: {name((size, world))}: {speed.tokens_per_second:,.0f} real tokens/s")

    cores = len(os.sched_getaffinity(0))
    speedups = {
        (size, world): [a / b for a, b in zip(rates[size, world], rates[size, 1], strict=True)] for size, world in cells
    }
    rows = [
        [
            name(cell) + (f" on {cores} cores" if cell[1] > cores else ""),
            spread(rates[cell], 0),
            spread(speedups[cell]),
            f"{statistics.median(imbalance[cell]):.2f}",
        ]
        for cell in cells
    ]
    crowded = f" This machine has {cores} cores: more processes than that share them." if max(WORLDS) > cores else ""
    goal = Goal(name((16, 2)), name((16, 1)), 1.7)
    text = (
        f"{machine()} One thread per process; micro-batches of at most {TOKENS:,} tokens, the same steps "
        f"for any number of processes.{crowded} Median (lowest-highest), alternating rounds: {rounds}.\n\n"
        f"{table(['', 'real tokens/s', 'speed-up', 'slowest process / mean'], rows)}\n"
        f"{goals_table([goal], {name(cell): rates[cell] for cell in cells})}"
    )
    save(output, "scaling", "Scaling", text, plot(speedups, cores), quick)


def name(cell: tuple[int, int]) -> str:
    size, world = cell
    return f"{size} micro-batches, {world} process{'es' if world > 1 else ''}"


def plot(speedups: dict[tuple[int, int], list[float]], cores: int) -> Figure:
    """Speed-up over processes: one dot per round, a line through the medians, and the ideal."""
    figure, lines = axes("Speed-up over one process", "processes, one thread each", "")
    lines.plot(WORLDS, [min(world, cores) for world in WORLDS], "--", color="#999999", label=f"ideal on {cores} cores")
    for size, style in zip(STEPS, ("-", ":"), strict=True):
        middles = [statistics.median(speedups[size, world]) for world in WORLDS]
        label = f"{size} micro-batches a step"
        lines.plot(WORLDS, middles, style, color=COLOURS["distrain"], label=label)
        for world, middle in zip(WORLDS, middles, strict=True):
            found = speedups[size, world]
            lines.plot([world] * len(found), found, "o", color=COLOURS["distrain"], markersize=4)
            if world > 1:
                lines.annotate(f"{middle:.2f}", (world, middle), xytext=(6, -14), textcoords="offset points")
    lines.set_xticks(WORLDS)
    lines.set_ylim(bottom=0)
    lines.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
