"""Draws architecture.svg: the rooms of the trainer, and how data flows through them."""

import sys
from pathlib import Path
from typing import NamedTuple


class Box(NamedTuple):
    """A room. x, y: its upper left corner; w: its width, all in pixels. group: which color it has."""

    name: str
    about: str
    x: int
    y: int
    w: int
    group: str


HEIGHT = 46
COLORS = {
    "light": ("#e8eef7", "#5b7db1"),
    "data": ("#e6f3ee", "#4a8f76"),
    "train": ("#fbf0dc", "#b98a2f"),
    "out": ("#f3e9f3", "#91659a"),
    "run": ("#f6e3e0", "#b3574b"),
}
LEGEND = {
    "light": "without torch: the client takes these",
    "data": "data and model",
    "train": "training",
    "out": "made from the run's folder alone",
    "run": "outlives the workers",
}
BOXES = (
    Box("settings", "every setting, checked", 20, 70, 180, "light"),
    Box("memory", "what a run needs per GPU", 20, 150, 180, "light"),
    Box("convert", "other trainers' files", 20, 230, 180, "light"),
    Box("hub", "what comes from and goes to it", 240, 70, 210, "data"),
    Box("tasks", "labels, loss, metrics", 240, 150, 210, "data"),
    Box("data", "texts become tokens", 240, 230, 210, "data"),
    Box("data/plan", "which rows are in which step", 240, 310, 210, "data"),
    Box("models", "loading, adapters, the loss", 490, 70, 210, "train"),
    Box("parallel", "one file for each strategy", 490, 150, 210, "train"),
    Box("training/loop", "deal, forward, backward, step", 490, 310, 210, "train"),
    Box("evaluation", "", 490, 390, 100, "train"),
    Box("checkpoint", "", 600, 390, 100, "train"),
    Box("storage", "the run's folder, atomic", 490, 470, 210, "train"),
    Box("reporting", "report, metrics, trackers", 740, 310, 200, "out"),
    Box("inference", "evaluate, predict, chat, merge", 740, 470, 200, "out"),
    Box("launch", "supervisor, rendezvous, workers", 740, 110, 200, "run"),
)
ARROWS = (
    ("settings", "memory"),
    ("settings", "hub"),
    ("tasks", "data"),
    ("hub", "tasks"),
    ("data", "data/plan"),
    ("data/plan", "training/loop"),
    ("hub", "models"),
    ("models", "parallel"),
    ("parallel", "training/loop"),
    ("training/loop", "evaluation"),
    ("training/loop", "checkpoint"),
    ("evaluation", "storage"),
    ("checkpoint", "storage"),
    ("storage", "reporting"),
    ("storage", "inference"),
    ("launch", "training/loop"),
)


def picture() -> str:
    """The picture as SVG, on a ground of its own, so that it can be read on light and dark pages."""
    boxes = {box.name: box for box in BOXES}
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 600" role="img" font-family="system-ui, sans-serif">',
        "<title>Rooms of the trainer, and how data flows through them</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#5c6670"/></marker></defs>',
        '<rect width="960" height="600" rx="10" fill="#fbfbfa"/>',
        '<text x="20" y="38" font-size="17" fill="#20262c">distrain_trainer: the rooms, and how data flows</text>',
    ]
    lines += [arrow(boxes[start], boxes[end]) for start, end in ARROWS]
    for box in BOXES:
        fill, stroke = COLORS[box.group]
        middle = box.x + box.w / 2
        lines.append(
            f'<rect x="{box.x}" y="{box.y}" width="{box.w}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="{stroke}"/>'
        )
        lines.append(
            f'<text x="{middle:g}" y="{box.y + (20 if box.about else 28)}" font-size="14" font-weight="600" '
            f'text-anchor="middle" fill="#20262c">{box.name}</text>'
        )
        if box.about:
            lines.append(
                f'<text x="{middle:g}" y="{box.y + 37}" font-size="11.5" text-anchor="middle" fill="#4a545e">'
                f"{box.about}</text>"
            )
    for place, (group, about) in enumerate(LEGEND.items()):
        fill, stroke = COLORS[group]
        x, y = 20 + 310 * (place % 3), 546 + 24 * (place // 3)
        lines.append(f'<rect x="{x}" y="{y}" width="14" height="14" rx="3" fill="{fill}" stroke="{stroke}"/>')
        lines.append(f'<text x="{x + 21}" y="{y + 11.5}" font-size="11.5" fill="#4a545e">{about}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def arrow(start: Box, end: Box) -> str:
    """A line from one box to another, from the sides that face each other."""
    if start.x + start.w <= end.x:
        x1, y1, x2, y2 = float(start.x + start.w), start.y + HEIGHT / 2, end.x - 2.0, end.y + HEIGHT / 2
    elif end.x + end.w <= start.x:
        x1, y1, x2, y2 = float(start.x), start.y + HEIGHT / 2, end.x + end.w + 2.0, end.y + HEIGHT / 2
    else:
        narrow = min(start, end, key=lambda box: box.w)
        x1 = x2 = narrow.x + narrow.w / 2
        y1, y2 = float(start.y + HEIGHT), end.y - 2.0
    bend = (x1 + x2) / 2
    path = f"M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}" if y1 != y2 and x1 != x2 else ""
    path = path or f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
    return f'<path d="{path}" fill="none" stroke="#5c6670" stroke-width="1.4" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture())
