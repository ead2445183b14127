"""Tables and plots of what was measured."""

import argparse
import math
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
COLOURS = {
    "distrain": "#0072B2",
    "bare loop": "#999999",
    "Trainer": "#E69F00",
    "Trainer grouped": "#D55E00",
    "Trainer grouped oneDNN": "#CC79A7",
}
"""From the palette of Okabe and Ito, which any eyes tell apart."""

LOAD = os.getloadavg()[0]
"""How busy the machine was with other things when the benchmark began, in cores."""

matplotlib.rcParams |= {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Goal:
    """What one contender is to reach as a multiple of another, in real tokens per second."""

    contender: str
    other: str
    wanted: float

    def row(self, rates: Mapping[str, Sequence[float]]) -> list[str]:
        """A line of the table of goals. rates: of each contender, one per round."""
        ratios = [a / b for a, b in zip(rates[self.contender], rates[self.other], strict=True)]
        met = "met" if statistics.median(ratios) >= self.wanted else "missed"
        return [f"{self.contender} / {self.other}", spread(ratios), f"at least {self.wanted:g}", met]


def say(text: str) -> None:
    """Tells the person who waits."""
    print(text, file=sys.stderr, flush=True)


def command(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps each: shows that it works, measures nothing")
    parser.add_argument("--output", type=Path, help=f"folder for tables and plots (default: {RESULTS}; quick: none)")
    return parser


@contextmanager
def folders(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """A folder for what comes and goes, and the one that tables and plots are written to."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        scratch = Path(folder)
        yield scratch, options.output or (scratch if options.quick else RESULTS)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`3.21 (3.10-3.30)`: the median, and the lowest and the highest where there are several; infinity is `never`."""
    middle, lowest, highest = (
        "never" if math.isinf(value) else f"{value:,.{digits}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} ({lowest}-{highest})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its first column holds words, the others numbers."""
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def goals_table(goals: Sequence[Goal], rates: Mapping[str, Sequence[float]]) -> str:
    """The goals, what was measured, and whether it is enough."""
    head = ["real tokens/s, ratio within a round", "measured", "goal", ""]
    return table(head, [goal.row(rates) for goal in goals])


def machine() -> str:
    """What it was measured on, in one sentence."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate"))
    python = platform.python_version()
    processor = names[0] if names else platform.machine()
    return f"On {cores} cores of {processor} (load before: {LOAD:.1f}), with Python {python}, {packages}."


def axes(title: str, x: str, y: str, height: float = 4.2) -> tuple[Figure, matplotlib.axes.Axes]:
    """An empty plot."""
    figure = Figure(figsize=(8, height), layout="constrained")
    plot = figure.add_subplot()
    plot.set(title=title, xlabel=x, ylabel=y)
    return figure, plot


def save(output: Path, name: str, title: str, text: str, figure: Figure, quick: bool) -> None:
    """Writes <name>.md and <name>.png, and prints the former."""
    warning = "**A smoke run of a few steps: these numbers mean nothing.**\n\n" if quick else ""
    text = f"# {title}\n\n{warning}{text}\n![{title}]({name}.png)\n"
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.md").write_text(text)
    figure.savefig(output / f"{name}.png")
    print(text, flush=True)
