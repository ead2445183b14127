"""One HTML page that shows runs side by side: a table, the best first, and their curves overlaid. It opens offline."""

import html
import math
from collections.abc import Sequence
from typing import Any

from distrain_k8s.watch.compare import Compared, Comparison, is_number
from distrain_k8s.watch.progress import short

CHARTS = (
    ("Training loss", "loss", 0.9),
    ("Evaluation loss", "eval_loss", 0.0),
    ("Accuracy", "eval_accuracy", 0.0),
    ("F1", "eval_f1_macro", 0.0),
    ("Perplexity", "eval_perplexity", 0.0),
    ("Learning rate", "learning_rate", 0.0),
    ("Gradient norm", "grad_norm", 0.9),
    ("Tokens per second", "tokens_per_second", 0.9),
)
"""Title, field of metrics.jsonl, and how much a line is smoothed: the weight of what came before."""
WIDTH, HEIGHT = 560, 240
POINTS = 600
"""Most points of a line."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #66707c; --faint: #e2e6ea; --card: #fff; --shade: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #9aa4af; --faint: #333a42; --card: #1b1f24; --shade: #121518; }
}
body { margin: 0; background: var(--shade); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 8px; }
p { color: var(--soft); margin: 0 0 20px; }
.card { background: var(--card); border: 1px solid var(--faint); border-radius: 12px; padding: 16px 18px;
  margin-bottom: 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--faint); white-space: nowrap; }
tr:first-child td { font-weight: 650; }
i { display: inline-block; width: 16px; height: 4px; border-radius: 2px; margin-right: 8px; vertical-align: middle; }
svg { width: 100%; height: auto; overflow: visible; } svg text { fill: var(--soft); font-size: 13px; }
.grid { stroke: var(--faint); stroke-width: 1; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 0 16px; }
"""


def page(found: Comparison, title: str) -> str:
    """The whole page."""
    colours = {run.name: colour(index, len(found.runs)) for index, run in enumerate(found.runs)}
    charts = [drawn for name, field, weight in CHARTS if (drawn := chart(name, field, weight, found.runs, colours))]
    better = f"{len(found.runs)} runs, ranked by their best {found.metric.removeprefix('eval_')}"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(better)}</p>"
        f"<div class='card'>{table(found, colours)}</div>"
        f"<div class='charts'>{''.join(charts)}</div></main></body></html>\n"
    )


def table(found: Comparison, colours: dict[str, str]) -> str:
    """The runs, with what they differ in."""
    titles = ["run", found.metric, "at step", "status", "steps", *found.differs]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    rows = []
    for run in found.runs:
        cells = [f"<i style='background:{colours[run.name]}'></i>{html.escape(run.name)}"]
        cells += [html.escape(text) for text in row_of(run, found.differs)[1:]]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def row_of(run: Compared, differs: Sequence[str]) -> list[str]:
    """Name, score, its step, status, steps, and the settings that differ, as text."""
    score = "-" if run.score is None else f"{run.score:.4g}"
    at = "-" if run.at is None else f"{run.at:,}"
    return [run.name, score, at, run.status, f"{run.step:,}", *(shown(run.settings.get(name)) for name in differs)]


def shown(value: Any) -> str:
    """A setting's value."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def colour(index: int, count: int) -> str:
    """One of so many that differ, also in the dark."""
    return f"hsl({(210 + index * 360 / max(count, 1)) % 360:.0f} 65% {48 if index % 2 else 56}%)"


def chart(title: str, field: str, weight: float, runs: Sequence[Compared], colours: dict[str, str]) -> str:
    """The curves of one field; empty where no run has it."""
    curves = {run.name: points_of(run, field, weight) for run in runs}
    every = [point for points in curves.values() for point in points]
    if not every:
        return ""
    last = max(step for step, _ in every) or 1
    low, high = min(value for _, value in every), max(value for _, value in every)
    if high == low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1

    def place(step: float, value: float) -> str:
        return f"{step / last * WIDTH:.1f} {(high - value) / (high - low) * HEIGHT:.1f}"

    parts = []
    for number in range(5):
        value = low + (high - low) * number / 4
        y = HEIGHT - HEIGHT * number / 4
        parts.append(f"<path class='grid' d='M0 {y:.0f}h{WIDTH}'/>")
        parts.append(f"<text x='-8' y='{y + 4:.0f}' text-anchor='end'>{short(value)}</text>")
    parts += [
        f"<text x='{WIDTH * part:.0f}' y='{HEIGHT + 20}' text-anchor='middle'>{last * part:,.0f}</text>"
        for part in (0, 0.5, 1)
    ]
    for name, points in reversed(curves.items()):  # the best on top
        if points:
            path = "M" + "L".join(place(step, value) for step, value in thinned(points))
            tip = f"<title>{html.escape(name)}</title>"
            parts.append(f"<path class='line' stroke='{colours[name]}' d='{path}'>{tip}</path>")
    view = f"-60 -10 {WIDTH + 80} {HEIGHT + 40}"
    return (
        f"<figure class='card' style='margin-inline:0'><h2>{html.escape(title)}</h2>"
        f"<svg viewBox='{view}' role='img' aria-label='{html.escape(title)} by step'>{''.join(parts)}</svg></figure>"
    )


def points_of(run: Compared, field: str, weight: float) -> list[tuple[int, float]]:
    """Steps and values, smoothed by a moving average that forgets (1 - weight) of itself each step."""
    found: list[tuple[int, float]] = []
    average, total = 0.0, 0.0
    for line in run.lines:
        if is_number(line.get(field)) and is_number(line.get("step")):
            average, total = weight * average + line[field], weight * total + 1
            found.append((line["step"], average / total))
    return found


def thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most POINTS of them, with the last."""
    if len(points) <= POINTS:
        return points
    gap = math.ceil(len(points) / POINTS)
    return [*points[::gap], points[-1]]
