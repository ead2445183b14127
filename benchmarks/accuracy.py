"""Part B of trainer.py: seconds until the accuracy that Trainer has after three epochs of the sample."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from distrain_trainer.settings.reader import read_settings
from distrain_trainer.training.planning import plan_of
from report import COLOURS, axes, machine, save, say, spread, table
from rows import token_rows
from running import Lines, run_distrain, run_program, write_settings

EXAMPLE = Path(__file__).parent.parent / "examples" / "sample.yaml"
TRAINER = {"--batch": 16, "--learning-rate": 1e-4}
PROCESSES = 2
"""distrain's, one thread each. Trainer has one process and all cores, as it comes."""
EVALUATIONS_AN_EPOCH = 2
GOAL = 0.5
"""Part of Trainer's time."""


@dataclass(frozen=True)
class Point:
    """An evaluation on the held-out rows. training: seconds so far, evaluations left out; wall: with them."""

    epoch: float
    accuracy: float
    training: float
    wall: float


Curve = list[Point]


def measure(scratch: Path, output: Path, rounds: int, quick: bool) -> None:
    """Trains Trainer for one and for three epochs, and distrain as the example does; writes accuracy.md and .png."""
    settings = yaml.safe_load(EXAMPLE.read_text())
    settings["data"]["cache"] = str(scratch / "cache")
    if quick:
        settings["schedule"]["max_steps"] = 4
    rounds = 1 if quick else rounds
    one, three, ours = "Trainer, 1 epoch", "Trainer, 3 epochs", "distrain"
    curves: dict[str, list[Curve]] = {one: [], three: [], ours: []}
    for number in range(rounds):
        settings["seed"] = 42 + number
        for name, epochs in ((one, 1), (three, 3)):
            changed = settings | {"schedule": settings["schedule"] | {"epochs": epochs}}
            curves[name].append(run_trainer(write_settings(scratch / f"{number} {name}", changed), TRAINER))
            tell(f"round {number + 1} of {rounds}: {name}", curves[name][-1])
        curves[ours].append(run_ours(scratch / f"{number} {ours}", settings))
        tell(f"round {number + 1} of {rounds}: {ours}", curves[ours][-1])

    reached = [first(curve, rival[-1].accuracy) for curve, rival in zip(curves[ours], curves[three], strict=True)]
    parts = [a.training / b[-1].training for a, b in zip(reached, curves[three], strict=True)]
    walls = [a.wall / b[-1].wall for a, b in zip(reached, curves[three], strict=True)]
    head = ["", "epochs", "held-out accuracy", "seconds of training", "with evaluations"]
    rows = [
        row(f"{one}, end", [curve[-1] for curve in curves[one]]),
        row(f"{three}, end", [curve[-1] for curve in curves[three]]),
        row(f"{ours}, first as accurate as that", reached),
        row(f"{ours}, end", [curve[-1] for curve in curves[ours]]),
    ]
    met = "met" if statistics.median(parts) < GOAL else "missed"
    goals = [
        ["training, seconds", spread(parts), f"less than {GOAL:g}", met],
        ["with evaluations (distrain's: and checkpoints)", spread(walls), "", ""],
    ]
    text = (
        f"{machine()} The sample's docstrings, at most 128 tokens, fp32, AdamW. Trainer: one process with all cores, "
        f"batch {TRAINER['--batch']}, learning rate {TRAINER['--learning-rate']:g}, linear schedule. distrain: "
        f"examples/sample.yaml on {PROCESSES} processes. Median (lowest-highest), rounds: {rounds}.\n\n"
        f"{table(head, rows)}\n"
        f"{table(['distrain / Trainer, to the accuracy of three epochs', 'measured', 'goal', ''], goals)}"
    )
    save(output, "accuracy", "Seconds to the same accuracy", text, plot(curves), quick)


def run_trainer(settings: Path, options: Mapping[str, float]) -> Curve:
    """Trainer's evaluations, one per epoch. options: of contender_transformers.py."""
    more = [str(part) for option in options.items() for part in option]
    arguments = [str(settings), "--result", str(settings.parent), "--evaluate", *more]
    run_program("contender_transformers.py", arguments, settings.parent / "log")
    return [Point(**point) for point in json.loads((settings.parent / "evaluations.json").read_text())]


def run_ours(folder: Path, example: dict[str, Any]) -> Curve:
    """distrain's evaluations, several per epoch."""
    probe = read_settings(str(write_settings(folder / "plan", example)), {})
    steps_an_epoch = int(plan_of(probe, token_rows(probe)[1].train).ends[0])
    evaluation = {"every_steps": math.ceil(steps_an_epoch / EVALUATIONS_AN_EPOCH)}
    lines = run_distrain(write_settings(folder / "run", example | {"evaluation": evaluation}), PROCESSES, PROCESSES)
    return curve_of(lines)


def curve_of(lines: Lines) -> Curve:
    """The evaluations among the lines of a run, the clock starting at its first."""
    curve: Curve = []
    training = 0.0
    for came, line in lines:
        training += line.get("step_seconds", 0.0)
        if "eval_accuracy" in line:
            curve.append(Point(line["epoch"], line["eval_accuracy"], training, came - lines[0][0]))
    return curve


def first(curve: Curve, accuracy: float) -> Point:
    """The first point at least as accurate; one that never came where there is none."""
    never = Point(math.inf, max(point.accuracy for point in curve), math.inf, math.inf)
    return next((point for point in curve if point.accuracy >= accuracy), never)


def tell(name: str, curve: Curve) -> None:
    """Says how a run ended."""
    say(f"{name}: accuracy {curve[-1].accuracy:.4f} after {curve[-1].training:.0f} s of training")


def row(name: str, points: Curve) -> list[str]:
    """A line of the table, from one point per round."""

    def column(field: str, digits: int) -> str:
        return spread([getattr(point, field) for point in points], digits)

    return [name, column("epoch", 1), column("accuracy", 4), column("training", 0), column("wall", 0)]


def plot(curves: dict[str, list[Curve]]) -> Figure:
    """Accuracy over seconds of training, one line per run; the accuracy to reach is dashed."""
    figure, lines = axes("Held-out accuracy", "seconds of training (evaluations left out)", "")
    styles = {
        "Trainer, 1 epoch": ("Trainer grouped", "s"),
        "Trainer, 3 epochs": ("Trainer", "o"),
        "distrain": ("distrain", "D"),
    }
    for name, found in curves.items():
        colour, marker = COLOURS[styles[name][0]], styles[name][1]
        for number, curve in enumerate(found):
            x, y = [point.training for point in curve], [point.accuracy for point in curve]
            lines.plot(x, y, color=colour, marker=marker, markersize=5, label=None if number else name)
    target = statistics.median(curve[-1].accuracy for curve in curves["Trainer, 3 epochs"])
    lines.axhline(target, color="#555555", linestyle="--", linewidth=1)
    lines.annotate(
        f"Trainer after 3 epochs: {target:.3f}",
        (1, target),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color="#555555",
    )
    lines.set_xlim(left=0)
    lines.legend(loc="lower right")
    return figure
