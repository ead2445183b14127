"""Part A of trainer.py: real tokens per second and padding."""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from report import COLOURS, Goal, axes, goals_table, machine, save, say, spread, table
from rows import synthetic
from running import Speed, Steps, run_distrain, run_program, write_settings

WARM_UP = 3
"""Steps that are not measured."""
SAMPLES = 16
"""Trainer's samples per step, over all processes: twice its default per process, and its default for two."""
BATCH = {"tokens": 1024, "samples": None, "micro_batches": 2}
"""distrain's, and so the bare loop's: about as many samples per step."""


@dataclass(frozen=True)
class Contender:
    """A system on some processes. steps: measured in a round."""

    system: str
    processes: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.system}, {self.processes} process{'es' if self.processes > 1 else ''}"


# Trainer's grouping sorts each 50 batches by length, longest first: only whole groups stand for all rows.
CONTENDERS = (
    Contender("distrain", 1, 25),
    Contender("bare loop", 1, 25),
    Contender("Trainer", 1, 15),
    Contender("Trainer grouped", 1, 50),
    Contender("Trainer grouped oneDNN", 1, 50),
    Contender("distrain", 2, 25),
    Contender("Trainer", 2, 15),
    Contender("Trainer grouped", 2, 25),
)
GOALS = (
    Goal("distrain, 1 process", "bare loop, 1 process", 0.97),
    Goal("distrain, 1 process", "Trainer, 1 process", 3.0),
    Goal("distrain, 2 processes", "Trainer, 2 processes", 3.0),
    Goal("distrain, 2 processes", "Trainer, 1 process", 3.0),
    Goal("distrain, 1 process", "Trainer grouped, 1 process", 1.3),
    Goal("distrain, 1 process", "Trainer grouped oneDNN, 1 process", 1.0),
    Goal("distrain, 2 processes", "Trainer grouped, 2 processes", 1.3),
    Goal("distrain, 2 processes", "Trainer grouped, 1 process", 1.3),
)


def measure(scratch: Path, output: Path, rounds: int, quick: bool) -> None:
    """Lets the contenders take turns, each round on other rows; writes throughput.md and throughput.png."""
    speeds: dict[str, list[Speed]] = {contender.name: [] for contender in CONTENDERS}
    rounds = 1 if quick else rounds
    for number in range(rounds):
        settings = synthetic(scratch, seed=number) | {"batch": BATCH}
        for contender in CONTENDERS:
            steps = 3 if quick else contender.steps
            settings["schedule"] = {"kind": "constant", "max_steps": WARM_UP + steps}
            file = write_settings(scratch / f"{number} {contender.name}", settings)
            speed = run(contender, file).speed(WARM_UP)
            shutil.rmtree(file.parent)
            speeds[contender.name].append(speed)
            real, padding = speed.tokens_per_second, speed.padding
            say(f"round {number + 1} of {rounds}: {contender.name}: {real:,.0f} real tokens/s, {padding:.1%} padding")

    rates = {name: [speed.tokens_per_second for speed in found] for name, found in speeds.items()}
    rows = []
    for contender in CONTENDERS:
        found = speeds[contender.name]
        padding = statistics.median(speed.padding for speed in found)
        samples = statistics.median(speed.samples for speed in found)
        steps = 3 if quick else contender.steps
        rows.append(
            [contender.name, spread(rates[contender.name], 0), f"{padding:.1%}", f"{samples:.1f}", f"{steps * rounds}"]
        )
    text = (
        f"{machine()} One process has all cores, two have one thread each. 8,000 rows of 8 to 512 tokens, lengths "
        "lognormal with median 70 and sigma 0.8; fp32, AdamW, dropout. Median (lowest-highest), alternating rounds: "
        f"{rounds}.\n\n"
        f"{table(['', 'real tokens/s', 'padding', 'samples per step', 'steps measured'], rows)}\n"
        f"{goals_table(GOALS, rates)}"
    )
    save(output, "throughput", "Throughput", text, plot(rates), quick)


def run(contender: Contender, settings: Path) -> Steps:
    """One run of a contender."""
    folder, processes = settings.parent, contender.processes
    cores = processes if processes > 1 else None
    if contender.system == "distrain":
        return Steps.of_distrain(run_distrain(settings, processes, cores))
    program, options = "contender_bare.py", []
    if contender.system != "bare loop":
        program, options = "contender_transformers.py", ["--batch", str(SAMPLES // processes)]
        options += ["--grouped"] if "grouped" in contender.system else []
        options += ["--onednn"] if "oneDNN" in contender.system else []
    run_program(program, [str(settings), "--result", str(folder), *options], folder / "log", processes, cores)
    return Steps.read(sorted(folder.glob("steps-*.json")))


def plot(rates: dict[str, list[float]]) -> Figure:
    """A bar for each contender's median, a dot for each round."""
    figure, bars = axes("Real tokens per second", "more is better", "")
    names = list(reversed(rates))
    middles = [statistics.median(rates[name]) for name in names]
    bars.barh(names, middles, color=[COLOURS[name.partition(",")[0]] for name in names], height=0.7)
    for place, name in enumerate(names):
        bars.plot(rates[name], [place] * len(rates[name]), "o", color="black", markersize=3)
        bars.text(max(rates[name]), place, f"  {middles[place]:,.0f}", va="center")
    bars.tick_params(axis="y", length=0)
    bars.set_xlim(0, 1.12 * max(max(found) for found in rates.values()))
    bars.xaxis.set_major_formatter("{x:,.0f}")
    return figure
