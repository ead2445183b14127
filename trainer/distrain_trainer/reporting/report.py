"""report.html: one file that shows a run, opens offline, and is made from the run's folder alone.

This module decides what the report says, `report.html.j2` how it looks; `svg` draws its charts.
"""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from distrain_trainer.console import clock, short
from distrain_trainer.metrics.metrics import class_scores, greater_is_better
from distrain_trainer.reporting.svg import SIDE, Chart, cut, draw_chart, draw_matrix, draw_scatter
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.settings.tasks import FACTS, Task
from distrain_trainer.storage.files import write_text
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Task as TaskRecord

CLASSES = 60
"""Most classes of a drawn confusion matrix."""
ROWS = 40
"""Most rows of a table of classes, evaluations or events."""
LABEL = 32
"""Most characters of a class's name in a table; the whole name stands in its tooltip."""
NARROW = ("loss", "accuracy", "f1_macro", "f1_micro", "f1", "perplexity", "token_accuracy", "mae", "pearson")
"""Metrics of an evaluation that a phone shows too."""
EVENTS = {
    "resume": "resumed",
    "regroup": "a node was back",
    "preempted": "preempted",
    "interrupted": "stopped by hand",
    "nonfinite": "non-finite",
    "early_stop": "stopped early",
    "checkpoint": "checkpoint",
}


CHARTS = (
    Chart("Loss", (("loss", "training"), ("eval_loss", "evaluation")), wide=True, axis="cross entropy, nats"),
    Chart(
        "Quality",
        (
            ("eval_accuracy", "accuracy"),
            ("eval_f1_macro", "f1"),
            ("eval_f1_micro", "f1 micro"),
            ("eval_precision_macro", "precision"),
            ("eval_recall_macro", "recall"),
        ),
        axis="score",
    ),
    Chart(
        "Agreement",
        (("eval_pearson", "pearson"), ("eval_spearman", "spearman"), ("eval_quadratic_kappa", "quadratic kappa")),
        axis="score",
    ),
    Chart("Rewards", (("eval_rewards/chosen", "chosen"), ("eval_rewards/rejected", "rejected")), axis="reward"),
    Chart("Better answers", (("eval_rewards/accuracies", "found"),), axis="part of all pairs"),
    Chart(
        "Written texts",
        (("eval_rouge1", "ROUGE-1"), ("eval_rougeL", "ROUGE-L"), ("eval_exact_match", "exact match")),
        axis="score",
    ),
    Chart("Error", (("eval_mae", "mean absolute error"),), zero=True, axis="mean absolute error"),
    Chart(
        "Entities",
        (("eval_f1", "f1"), ("eval_precision", "precision"), ("eval_recall", "recall")),
        axis="score",
    ),
    Chart("Perplexity", (("eval_perplexity", "evaluation"),), axis="perplexity"),
    Chart("Token accuracy", (("eval_token_accuracy", "evaluation"),), axis="part of all targets"),
    Chart("Learning rate", (("learning_rate", "learning rate"),), zero=True, exact=True, axis="learning rate"),
    Chart("Gradient norm", (("grad_norm", "before clipping"),), zero=True, axis="norm"),
    Chart("Throughput", (("tokens_per_second", "tokens per second"),), zero=True, axis="tokens/s"),
    Chart("Padding", (("padding_fraction", "of all tokens"),), unit="%", scale=100, zero=True, axis="of all tokens"),
    Chart(
        "Step time",
        (
            ("step_seconds", "whole step"),
            ("data_seconds", "waiting for data"),
            ("sync_seconds", "synchronizing"),
        ),
        unit=" s",
        zero=True,
        axis="time",
    ),
    Chart(
        "Memory",
        (("memory_bytes", "peak of process 0"),),
        unit=" GiB",
        scale=2**-30,
        zero=True,
        exact=True,
        axis="peak",
    ),
    Chart(
        "Accelerator",
        (("gpu_utilization", "utilization"), ("mfu", "MFU")),
        unit="%",
        scale=100,
        zero=True,
        axis="part of the peak",
    ),
)


def write_report(folder: Path) -> Path:
    """Writes report.html from settings.json, metrics.jsonl and training_info.json of a run's folder.

    What is missing, because the run failed or has not got that far, is left out. Returns the path of the report.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    run, info = _read(folder / "settings.json"), _read(folder / "training_info.json")
    page = environment.get_template("report.html.j2").render(
        _content(run, info, read_metrics(folder / "metrics.jsonl"))
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _content(run: dict[str, Any], info: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that the template shows, formatted."""
    settings = run.get("settings") or {}
    name: Task | None = settings.get("task")
    task = TASKS[name] if name else None
    headline = task.metrics(tuple(run.get("labels") or ())).headline if task else ()
    if name == "sequence-classification":  # of one label per row all micro averages are the accuracy
        lines = [{name: value for name, value in line.items() if not name.endswith("_micro")} for line in lines]
    events = [line for line in lines if "event" in line]
    evaluations = [line for line in lines if any(name.startswith("eval_") for name in line)]
    steps = info.get("steps") or (run.get("plan") or {}).get("steps") or 0
    # The lines of a run that was killed are newer than its training_info.json.
    step = max(info.get("step") or 0, max((line["step"] for line in lines), default=0))
    last_step = max(step, 1)
    data, best = run.get("data") or {}, info.get("best")
    return {
        "model": info.get("model") or (settings.get("model") or {}).get("name") or "a model",
        "dataset": info.get("dataset") or data.get("description"),
        "task": settings.get("task"),
        "run_id": run.get("run_id"),
        "status": info.get("status") or "not started",
        "error": info.get("error"),
        "step": step,
        "steps": steps,
        "cards": list(_cards(run, info, step, steps, headline)),
        "charts": [drawn for chart in charts_of(task) if (drawn := draw_chart(chart, lines, last_step))],
        "markers": _markers(events, last_step),
        "evaluations": _evaluation_table(evaluations, best),
        "matrix": _matrix(info.get("confusion_matrix")),
        "labels": _label_table(info.get("label_scores")),
        "scatter": _scatter(info.get("scatter")),
        "answers": info.get("answers") or [],
        "events": _event_table(events),
        "settings": _setting_groups(settings),
        "facts": list(_facts(run, info, lines)),
        "commands": _commands(settings.get("task"), info.get("status"), run.get("command")),
    }


def _cards(
    run: dict[str, Any], info: dict[str, Any], step: int, steps: int, headline: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    """The headline numbers: (title, value, remark). headline: the task's metrics."""
    final = {name.removeprefix("eval_"): value for name, value in (info.get("final") or {}).items()}
    best = info.get("best")
    if best:
        name = best["metric"].removeprefix("eval_")
        yield f"best {words(name)}", quality(name, best["value"]), f"at step {best['step']:,}"
    for name in (*(name for name in headline if name != "loss"), "loss"):
        if final.get(name) is not None:
            yield words(name), quality(name, final[name]), "at the end"
    if steps:
        epoch = info.get("epoch")
        yield "steps", f"{step:,}", f"of {steps:,}" + (f", epoch {epoch:.3g}" if epoch is not None else "")
    if info.get("tokens"):
        yield "tokens", short(info["tokens"]), f"in {info.get('samples') or 0:,} samples"
    if info.get("seconds"):
        yield "duration", clock(info["seconds"]), f"{info['seconds'] / max(step, 1):.3g} s per step"
    if info.get("tokens_per_second"):
        world = info.get("world_size") or run.get("world_size") or 1
        yield (
            "tokens per second",
            short(info["tokens_per_second"]),
            "in one process" if world == 1 else f"over {world} processes",
        )
    if info.get("padding_fraction") is not None:
        yield "padding", f"{info['padding_fraction']:.2%}", "of all tokens"
    parameters = run.get("parameters")
    if parameters:
        yield "parameters", short(parameters["trainable"]), f"trainable, of {short(parameters['all'])}"


def _markers(events: list[dict[str, Any]], last_step: int) -> list[dict[str, Any]]:
    """Where each kind of event is marked on the charts."""
    markers = []
    for kind, label in EVENTS.items():
        steps = sorted({line["step"] for line in events if line["event"] == kind})
        if steps:
            x = [f"M{step / last_step * SIDE:.1f}" for step in steps]
            path = "".join(f"{left} {SIDE:.0f}v-30" if kind == "checkpoint" else f"{left} 0v{SIDE:.0f}" for left in x)
            markers.append({"kind": kind, "label": label, "count": len(steps), "path": path})
    return markers


def _evaluation_table(evaluations: list[dict[str, Any]], best: dict[str, Any] | None) -> dict[str, Any] | None:
    """The newest evaluations, one per row, with the best value of each metric marked."""
    shown = evaluations[-ROWS:]
    names = list(dict.fromkeys(name for line in shown for name in line if name.startswith("eval_")))
    if not names:
        return None
    tops = {}
    for name in names:
        values = [line[name] for line in shown if line.get(name) is not None]
        if values:
            tops[name] = (max if greater_is_better(name.removeprefix("eval_")) else min)(values)
    rows = [
        {
            "step": f"{line['step']:,}",
            "epoch": f"{line['epoch']:.2f}" if line.get("epoch") is not None else "",
            "best": best is not None and best["step"] == line["step"],
            "cells": [
                (
                    quality(name.removeprefix("eval_"), line.get(name)),
                    name in tops and line.get(name) == tops[name],
                )
                for name in names
            ],
        }
        for line in shown
    ]
    return {
        "names": [words(name.removeprefix("eval_")) for name in names],
        "narrow": [name.removeprefix("eval_") in NARROW for name in names],
        "rows": rows,
        "left_out": len(evaluations) - len(shown),
    }


def _matrix(counted: dict[str, Any] | None) -> dict[str, Any] | None:
    """The confusion matrix as a picture, the scores of each class, and the pairs of classes confused most often."""
    if not counted or not np.sum(counted["counts"]):
        return None
    labels, counts = counted["labels"], np.asarray(counted["counts"])
    scores, rows = class_scores(counts), counts.sum(1)
    table = [
        {
            "label": cut(label, LABEL),
            "title": label,
            "rows": f"{row:,}",
            "scores": [float(scores[name][index]) for name in scores],
        }
        for index in np.sort(np.argsort(-rows, kind="stable")[:ROWS])
        for label, row in [(labels[index], rows[index])]
    ]
    wrong = counts - np.diag(np.diag(counts))
    pairs = [np.unravel_index(index, wrong.shape) for index in np.argsort(-wrong, axis=None, kind="stable")[:8]]
    confused = [
        {
            "true": cut(labels[i], LABEL),
            "predicted": cut(labels[j], LABEL),
            "count": int(wrong[i, j]),
            "of": int(rows[i]),
        }
        for i, j in pairs
        if wrong[i, j]
    ]
    drawn = np.sort(np.argsort(-rows, kind="stable")[:CLASSES])
    return {
        "picture": draw_matrix([labels[index] for index in drawn], counts[np.ix_(drawn, drawn)]),
        "drawn": len(drawn),
        "classes": len(labels),
        "table": table,
        "left_out": len(labels) - len(table),
        "confused": confused if len(labels) > 2 else [],
    }


def charts_of(task: TaskRecord | None) -> Iterator[Chart]:
    """The charts of a task, whose loss has a unit of its own."""
    for chart in CHARTS:
        yield replace(chart, axis=task.unit) if task and chart.title == "Loss" else chart


def _scatter(points: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Predicted numbers over true ones, and of how many rows those are some."""
    if not points or not points["true"]:
        return None
    drawn = draw_scatter(points["true"], points["predicted"])
    return drawn | {"shown": len(points["true"]), "rows": points["rows"]}


def _label_table(scores: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """The scores of each label, the most frequent of many, in their own order."""
    if not scores:
        return None
    frequent = sorted(sorted(range(len(scores)), key=lambda n: -scores[n]["count"])[:ROWS])
    rows = [
        {
            "label": cut(scores[n]["label"], LABEL),
            "title": scores[n]["label"],
            "scores": [scores[n][name] for name in ("precision", "recall", "f1")],
            "rows": f"{scores[n]['count']:,}",
        }
        for n in frequent
    ]
    return {"rows": rows, "left_out": len(scores) - len(rows)}


def _event_table(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The events, newest last; checkpoints, of which there are many, in one line."""
    told = [line for line in events if line["event"] != "checkpoint"]
    checkpoints = [line["step"] for line in events if line["event"] == "checkpoint"]
    if not events:
        return None
    rows = []
    for line in told[-ROWS:]:
        more = [
            f"{words(name)} {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in line.items()
            if name not in ("step", "event", "epoch", "message") and value != []
        ]
        kind = EVENTS.get(line["event"], line["event"])
        rows.append((f"{line['step']:,}", line["event"], kind, line.get("message") or ", ".join(more)))
    return {"rows": rows, "left_out": len(told) - len(rows), "checkpoints": checkpoints}


def _setting_groups(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All settings by section, in the order of their definition, each with whether it differs from its default."""
    defaults = flat(Settings())
    values = _flat(settings)
    names = sorted(values, key=lambda name: list(defaults).index(name) if name in defaults else len(defaults))
    groups: dict[str, list[tuple[str, str, bool]]] = {"run": []}
    for name in names:
        section, _, last = name.rpartition(".")
        changed = name in defaults and values[name] != defaults[name]
        groups.setdefault(section or "run", []).append((last, as_typed(values[name]), changed))
    return [{"title": title, "rows": rows} for title, rows in groups.items() if rows]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return values


def _facts(
    run: dict[str, Any], info: dict[str, Any], lines: list[dict[str, Any]]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Tables of data, plan, hardware and versions: (title, rows of name and value)."""
    data, plan = run.get("data") or {}, run.get("plan") or {}
    hardware, parameters = run.get("hardware") or {}, run.get("parameters") or {}
    batch = info.get("batch") or (run.get("settings") or {}).get("batch") or {}
    world = info.get("world_size") or run.get("world_size")

    rows = [
        ("source", data.get("description")),
        ("commit", data.get("commit")),
        ("fingerprint", data.get("fingerprint")),
    ]
    rows += [
        ("training rows", _count(data.get("train_rows"))),
        ("evaluation rows", _count(data.get("evaluation_rows"))),
    ]
    rows += [(words(name), _count(value)) for name, value in (data.get("counts") or {}).items()]
    yield from _table("Data", rows)

    dealt = None
    if world and batch.get("micro_batches"):
        dealt = f"{batch['micro_batches']} = {world} × {math.ceil(batch['micro_batches'] / world)}"
    rows = [
        ("steps", _count(plan.get("steps"))),
        ("epochs", str(len(plan["steps_per_epoch"])) if plan.get("steps_per_epoch") else None),
        ("micro-batches per step", dealt),
        ("padding", f"{plan['padding_fraction']:.2%}" if plan.get("padding_fraction") is not None else None),
        (
            "slowest process / mean",
            f"{plan['imbalance']:.3f}" if plan.get("imbalance") is not None else None,
        ),
        ("trainable parameters", _count(parameters.get("trainable"))),
        ("all parameters", _count(parameters.get("all"))),
    ]
    yield from _table("Plan and model", rows)

    memory, accelerators = hardware.get("memory_bytes"), hardware.get("accelerators")
    rows = [
        ("nodes", _nodes(lines)),
        ("processes", _count(world)),
        ("threads per process", _count(run.get("threads"))),
        ("processor", hardware.get("processor")),
        ("cores", _count(hardware.get("cores"))),
        ("memory", f"{memory / 2**30:.0f} GiB" if memory else None),
        (
            "accelerator",
            f"{accelerators} × {hardware['accelerator']}" if hardware.get("accelerator") else None,
        ),
    ]
    yield from _table("Hardware", rows)
    rows = [(name, str(version)) for name, version in (run.get("versions") or {}).items()]
    yield from _table("Versions", [*rows, ("git commit", (run.get("git_commit") or "")[:12])])


def _nodes(lines: list[dict[str, Any]]) -> str | None:
    """How many nodes took part, and in which steps where that changed; None where nothing says it."""
    taken = [(line["nodes"], line["step"]) for line in lines if "loss" in line and line.get("nodes")]
    spans = [(nodes, [step for _, step in some]) for nodes, some in groupby(taken, key=lambda entry: entry[0])]
    if len(spans) < 2:
        return str(spans[0][0]) if spans else None
    return ", ".join(f"{nodes} in steps {steps[0]:,} to {steps[-1]:,}" for nodes, steps in spans)


def _table(title: str, rows: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    known = [(name, value) for name, value in rows if value]
    if known:
        yield title, known


def _commands(task: Task | None, status: str | None, command: list[str] | None) -> list[tuple[str, str]]:
    """What to type next: (purpose, command)."""
    if status != "finished":
        again = shlex.join(command or ["distrain", "train"])
        purpose = "If it was interrupted, resume" if status == "running" else "Resume"
        return [(f"{purpose} from the last checkpoint", again if "--resume" in again else f"{again} --resume")]
    facts = FACTS[task or Settings().task]
    model = facts.model_class
    return [
        ("Evaluate it again, from the folder of this report", "distrain evaluate final"),
        ("Chat with it", "distrain chat final")
        if facts.holds == "messages"
        else ("Try it", 'echo "a text" | distrain predict final'),
        (
            "Use it in Python",
            f"from transformers import AutoTokenizer, {model}\n\n"
            f'model = {model}.from_pretrained("final")\n'
            'tokenizer = AutoTokenizer.from_pretrained("final")',
        ),
    ]


def words(name: str) -> str:
    """`f1_macro` as `f1 macro`."""
    return name.replace("_", " ")


def quality(name: str, value: float | None) -> str:
    """The value of a metric with as many digits as matter."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if name == "perplexity" else f"{value:.4f}"


def as_typed(value: object) -> str:
    """A setting as it is written in a file; an unset one as a dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return ", ".join(map(as_typed, value)) if isinstance(value, list) else json.dumps(value)


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"
