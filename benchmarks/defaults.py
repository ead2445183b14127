"""distrain beside transformers' Trainer, both with their defaults: accuracy and seconds on texts of four lengths.

Writes a table and a plot of accuracy against seconds, anew after each seed. Each run is kept in defaults.jsonl, and
`--continue` goes on behind the last of them where a command was interrupted.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import accuracy
from report import COLOURS, axes, command, folders, machine, save, say, spread, table
from running import processor_seconds, run_distrain, write_settings
from texts import KINDS, write_texts

FIRST_SEED = 42
CONTENDERS = ("Trainer", "distrain")
GOAL = 0.01
"""Accuracy that distrain may lose on average."""


@dataclass(frozen=True)
class Result:
    """A run. accuracy: on the held-out rows at its end. seconds: of training, evaluations at the end of each epoch
    included. processor: seconds that all its threads computed, its start included."""

    accuracy: float
    seconds: float
    processor: float


@dataclass(frozen=True)
class Kept:
    """The runs of this command and of those before, one JSON object a line: what was run, and its result."""

    path: Path

    def of(self, what: dict[str, Any]) -> Result | None:
        """The result of a run; None where it was not run yet."""
        lines = map(json.loads, self.path.read_text().splitlines()) if self.path.exists() else ()
        return next((Result(**line["result"]) for line in lines if what.items() <= line.items()), None)

    def add(self, what: dict[str, Any], result: Result) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(what | {"result": asdict(result)}) + "\n")


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contender and kind (default: 3)")
    parser.add_argument("--rows", type=float, default=1.0, metavar="SHARE", help="share of the rows (default: 1)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--continue", dest="goes_on", action="store_true", help="keep the runs of a command before")
    options = parser.parse_args()

    results: dict[tuple[str, str], list[Result]] = {}
    rows: dict[str, tuple[int, int]] = {}
    with folders(options) as (scratch, output):
        share = 0.02 if options.quick else options.rows
        kept = Kept(output / "defaults.jsonl")
        if not options.goes_on:
            kept.path.unlink(missing_ok=True)
        for kind in options.kinds:
            rows[kind] = write_texts(kind, scratch / f"{kind}.jsonl", share, FIRST_SEED)
        for seed in range(FIRST_SEED, FIRST_SEED + (1 if options.quick else options.seeds)):
            for kind, contender in product(options.kinds, CONTENDERS):
                what = {"kind": kind, "rows": list(rows[kind]), "seed": seed, "contender": contender}
                result = kept.of(what)
                if result is None:
                    data = {"files": str(scratch / f"{kind}.jsonl"), "split_column": "split"}
                    result = run(contender, scratch / f"{kind} {seed} {contender}", {"data": data, "seed": seed})
                    kept.add(what, result)
                results.setdefault((kind, contender), []).append(result)
                say(f"{kind}, seed {seed}, {contender}: {result}")
            save(output, "defaults", "Defaults", text(results, rows), plot(results), options.quick)


def run(contender: str, folder: Path, settings: dict[str, Any]) -> Result:
    """One run with nothing set but the data and the seed."""
    file = write_settings(folder, settings | {"data": settings["data"] | {"cache": str(folder.parent / "cache")}})
    before = processor_seconds()
    if contender == "distrain":
        end = accuracy.curve_of(run_distrain(file, processes=1))[-1]
    else:
        end = accuracy.run_trainer(file, {"--batch": 8})[-1]
    return Result(end.accuracy, end.wall, processor_seconds() - before)


def text(results: dict[tuple[str, str], list[Result]], rows: dict[str, tuple[int, int]]) -> str:
    """The tables, and what they are of."""
    lines, differences, times = [], [], []
    for kind in rows:
        trainer, ours = results[kind, "Trainer"], results[kind, "distrain"]
        difference = statistics.mean(r.accuracy for r in ours) - statistics.mean(r.accuracy for r in trainer)
        part = sum(r.seconds for r in ours) / sum(r.seconds for r in trainer)
        differences.append(difference)
        times.append(part)
        counts = "{:,} + {:,} rows".format(*rows[kind])
        lines += [[f"{kind}, {counts}: {name}", *columns(results[kind, name])] for name in CONTENDERS]
        lines.append(["**distrain against Trainer**", f"**{difference:+.3f}**", f"**{part:.2f} x**", ""])
    mean, slowest = statistics.mean(differences), max(times)
    goals = [
        ["accuracy, mean over the kinds", f"{mean:+.3f}", f"at least -{GOAL}", "met" if mean >= -GOAL else "missed"],
        ["seconds, the kind that gains least", f"{slowest:.2f} x", "less than 1", "met" if slowest < 1 else "missed"],
    ]
    runs = len(next(iter(results.values())))
    head = ["", "held-out accuracy", "seconds of training", "seconds of the processor"]
    return (
        f"{machine()} `model.name: sample`, one process with all cores; nothing is set but the data and the seed; "
        f"rows: those to train on + those held out. Median (lowest-highest), seeds: {runs}.\n\n{table(head, lines)}\n"
        f"{table(['distrain against Trainer', 'measured', 'goal', ''], goals)}"
    )


def columns(found: Sequence[Result]) -> list[str]:
    """The columns of a line."""
    return [
        spread([result.accuracy for result in found], 3),
        spread([result.seconds for result in found], 0),
        spread([result.processor for result in found], 0),
    ]


def plot(results: dict[tuple[str, str], list[Result]]) -> Figure:
    """Accuracy against seconds: a mark for each run, one shape for each kind."""
    figure, lines = axes("Held-out accuracy", "seconds of training", "")
    shapes = dict(zip(KINDS, "osD^", strict=True))
    for (kind, contender), found in results.items():
        x, y = [result.seconds for result in found], [result.accuracy for result in found]
        lines.scatter(x, y, color=COLOURS[contender], marker=shapes[kind], label=f"{contender}, {kind}")
    lines.set_xlim(left=0)
    lines.legend(loc="lower right", ncols=2)
    return figure


if __name__ == "__main__":
    main()
