"""Curves and confusion matrices as SVG, for a page that colours and stretches them.

A curve fills a box of SIDE x SIDE. The page stretches the box and writes the axis labels beside it as HTML, so text
keeps its size on a phone, colours follow light or dark mode, and the report stays small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from distrain_trainer.console import short

POINTS = 800
"""Most points of a drawn line: more than a screen shows."""
SIDE = 1000.0
"""Width and height of a plot in its own units."""


@dataclass(frozen=True)
class Chart:
    """A plot of some fields of metrics.jsonl.

    series: (field, label in the legend). scale: factor for the values, which are then shown with `unit`. zero: the y
    axis starts at 0. exact: the line is not smoothed. wide: the plot takes a row of its own. axis: what the y axis
    counts.
    """

    title: str
    series: tuple[tuple[str, str], ...]
    unit: str = ""
    scale: float = 1.0
    zero: bool = False
    exact: bool = False
    wide: bool = False
    axis: str = ""


def draw_chart(chart: Chart, lines: list[dict[str, Any]], last_step: int) -> dict[str, Any] | None:
    """A chart as paths in a box of SIDE x SIDE; None where there is nothing to draw."""
    series = []
    for name, label in chart.series:
        points = [(line["step"], line[name]) for line in lines if name in line and "event" not in line]
        steps, values = np.asarray([(x, np.nan if y is None else y) for x, y in points], float).reshape(-1, 2).T
        values = values * chart.scale
        if np.isfinite(values).any():
            series.append((label, steps, values))
    if not series:
        return None
    smoothed = [values if chart.exact else smooth(values) for _, _, values in series]
    low, high = _range([values for _, _, values in series], smoothed, chart.zero)
    y_ticks, x_ticks = ticks(low, high, 5), ticks(0, last_step, 6)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def path(steps: np.ndarray, values: np.ndarray, dots: bool) -> str:
        return _path(steps / last_step * SIDE, (high - values) / (high - low) * SIDE, dots)

    drawn = []
    for (label, steps, values), line in zip(series, smoothed, strict=True):
        few = len(values) <= 40
        drawn.append(
            {
                "label": label,
                "line": path(*thin(steps, line), dots=False),
                "raw": "" if line is values else path(*thin_spiky(steps, values), dots=False),
                "dots": path(steps, values, dots=True) if few else "",
                "last": with_unit(line[np.isfinite(line)][-1], chart.unit),
            }
        )
    return {
        "title": chart.title,
        "wide": chart.wide,
        "unit": chart.unit,
        "axis": chart.axis,
        "series": drawn,
        "low": low,
        "high": high,
        "last_step": last_step,
        "x": [(x / last_step * 100, f"{x:,.0f}" if x < 1e5 else short(x)) for x in x_ticks if x == int(x)],
        "y": [((y - low) / (high - low) * 100, with_unit(y, chart.unit)) for y in y_ticks],
    }


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over 1/25 of the line, skipping gaps; a short line stays as it is."""
    width = len(values) // 25
    if width < 2:
        return values
    kernel, known = np.ones(2 * (width // 2) + 1), np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    count = np.convolve(known, kernel, "same")
    return np.where(known, total / np.maximum(count, 1), np.nan)


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points of a smooth line, with the first and the last."""
    if len(steps) <= POINTS:
        return steps, values
    kept = np.linspace(0, len(steps) - 1, POINTS).round().astype(int)
    return steps[kept], values[kept]


def thin_spiky(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points of a raw line: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(steps) <= POINTS:
        return steps, values
    kept: list[int] = []
    for start, end in pairwise(np.linspace(0, len(steps), POINTS // 2 + 1).round().astype(int)):
        part = values[start:end]
        if np.isfinite(part).any():
            kept += sorted({start + int(np.nanargmin(part)), start + int(np.nanargmax(part))})
        else:
            kept.append(start)
    return steps[kept], values[kept]


def ticks(low: float, high: float, about: int) -> list[float]:
    """About `about` round numbers within low..high."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    gap = min((factor * unit for factor in (1, 2, 2.5, 5, 10)), key=lambda gap: abs(math.log(gap / raw)))
    first, last = math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9)
    return [number * gap for number in range(first, last + 1)]


def _range(raw: Sequence[np.ndarray], smoothed: Sequence[np.ndarray], zero: bool) -> tuple[float, float]:
    """Lowest and highest value to show: those of the smoothed lines, and of the raw ones without rare spikes."""
    lines = np.concatenate(smoothed)
    spread = np.concatenate(raw)
    lines, spread = lines[np.isfinite(lines)], spread[np.isfinite(spread)]
    rare = 0.5 if len(spread) > 100 else 0.0
    low = min(float(lines.min()), float(np.percentile(spread, rare)))
    high = max(float(lines.max()), float(np.percentile(spread, 100 - rare)))
    if zero:
        low = min(low, 0.0)
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return (low if zero else low - margin), high + margin


def _path(x: np.ndarray, y: np.ndarray, dots: bool) -> str:
    """An SVG path through the points, broken where y is not finite; with `dots`, one dot per point."""
    parts, pen_down = [], False
    for left, top in zip(x, y, strict=True):
        if math.isfinite(top):
            parts.append(f"{'L' if pen_down and not dots else 'M'}{left:.1f} {top:.1f}{'h0' if dots else ''}")
        pen_down = math.isfinite(top)
    return "".join(parts)


def draw_matrix(labels: list[str], counts: np.ndarray) -> dict[str, Any]:
    """Cells and label positions of a confusion matrix, in pixels. counts: int [classes, classes], row = true.

    A cell's strength is the square root of its share of the row, so that a few mistakes are still seen.
    """
    size = len(labels)
    cell = min(max(620 / size, 14.0), 110.0)
    letter = min(13.0, cell * 0.8)
    names = [cut(label, 24) for label in labels]
    longest = max(map(len, names)) * letter * 0.6
    upright = longest < cell * 0.95
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells = [
        {
            "x": round(column * cell, 1),
            "y": round(row * cell, 1),
            "strength": round(math.sqrt(shares[row, column]), 2),
            "count": int(counts[row, column]),
            "right": row == column,
            "title": f"{labels[row]} → {labels[column]}: {counts[row, column]:,} ({shares[row, column]:.0%})",
        }
        for row, column in zip(*np.nonzero(counts), strict=True)
    ]
    return {
        "cells": cells,
        "names": [(name, round((index + 0.5) * cell, 1)) for index, name in enumerate(names)],
        "cell": round(cell, 1),
        "side": round(size * cell, 1),
        "left": round(longest + 34, 1),
        "foot": round((letter * 1.6 if upright else longest + 10) + 24, 1),
        "letter": round(letter, 1),
        "number": round(min(14.0, cell * 0.36), 1) if cell >= 26 else 0,
        "upright": upright,
    }


def draw_scatter(true: Sequence[float], predicted: Sequence[float]) -> dict[str, Any]:
    """Predicted over true numbers as dots in a box of SIDE x SIDE, with the line on which they would be right."""
    both = np.concatenate([true, predicted]).astype(float)
    low, high = float(both.min()), float(both.max())
    margin = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin

    def place(values: Sequence[float]) -> np.ndarray:
        return (np.asarray(values, float) - low) / (high - low) * SIDE

    marks = [((tick - low) / (high - low) * 100, with_unit(tick, "")) for tick in ticks(low, high, 5)]
    return {"dots": _path(place(true), SIDE - place(predicted), dots=True), "ticks": marks}


def cut(name: str, longest: int) -> str:
    """A name of at most `longest` characters: of a longer one its start and its end, where names differ."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[len(name) - (longest - 1) // 2 :]}"


def with_unit(value: float, unit: str) -> str:
    """A number on an axis: 12.5%, 3.2 GiB, 30.3 µs, 2e-5."""
    if unit == " s" and 0 < abs(value) < 1:
        value, unit = (value * 1e3, " ms") if abs(value) >= 1e-3 else (value * 1e6, " µs")
    small = value != 0 and abs(value) < 1e-3
    return (f"{value:.3g}".replace("e-0", "e-") if small else short(value)) + unit
