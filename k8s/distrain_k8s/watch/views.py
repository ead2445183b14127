"""Runs, their pods and their events as tables and sentences."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from distrain_k8s.diagnose.causes import Cause
from distrain_k8s.kube.objects import Event
from distrain_k8s.output import Column, span, table
from distrain_k8s.runs.status import Phase, PodStatus, Run
from distrain_k8s.watch.progress import Told, short

STYLES = {
    Phase.PENDING: "yellow",
    Phase.QUEUED: "blue",
    Phase.STARTING: "cyan",
    Phase.RUNNING: "green",
    Phase.RESTARTING: "yellow",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.STOPPED: "dim",
}
Found = Mapping[tuple[str, str], Told]


def run_columns(namespaces: bool, told: Found | None) -> list[Column[Run]]:
    """The columns of a list of runs. told: by each run, None where its progress is not shown, which takes room."""
    crowded = told is not None
    columns: list[Column[Run]] = []
    if namespaces:
        columns.append(Column("NAMESPACE", lambda run: run.namespace))
    columns += [
        Column("NAME", lambda run: run.name),
        Column("PHASE", lambda run: run.shown_phase, style=lambda run: STYLES[run.phase]),
        Column("AGE", lambda run: span(run.seconds), wide=crowded, right=True),
        Column("NODES", _nodes, right=True),
        Column("GPUS", lambda run: "-" if run.gpus is None else str(run.gpus), wide=crowded, right=True),
        Column("KIND", lambda run: run.kind, wide=True),
        Column("QUEUE", lambda run: run.queue or "-", wide=True),
        Column("RESTARTS", lambda run: str(run.restarts), wide=True, right=True),
        Column("IMAGE", lambda run: run.image or "-", wide=True),
    ]
    if told is not None:
        columns += [_progress_column(*column, told) for column in _PROGRESS]
    columns.append(Column("CAUSE", lambda run: _cause(run, told or {}), gives_way=True))
    return columns


def run_view(run: Run, told: Told) -> RenderableType:
    """One run: where it stands, why, what to do, how far it is, what it waits for, and its pods."""
    gpus = f", {run.gpus} GPUs" if run.gpus else ""
    nodes = f"{run.nodes_running} of {run.nodes} nodes" if run.nodes > 1 else "1 node"
    about = f"{run.kind} in {run.namespace}, {nodes}{gpus}, {span(run.seconds)}"
    head = Text.assemble((run.name, "bold"), "  ", (run.shown_phase, f"bold {STYLES[run.phase]}"), "  ", (about, "dim"))
    parts: list[RenderableType] = [head]
    is_resumable = run.phase is Phase.STOPPED and run.cause is None
    parts += _facts(
        ("cause", run.cause.sentence if run.cause else ""),
        ("mend", run.cause.mend if run.cause else ""),
        ("next", f"distrain resume {run.name} -n {run.namespace}" if is_resumable else ""),
        ("progress", told.progress.sentence if told.progress else ""),
        ("waiting", told.waiting.sentence if told.waiting else ""),
        ("queue", run.queue),
    )
    if run.pods:
        parts += ["", table(run.pods, _pod_columns())]
    return Group(*parts)


def cause_view(cause: Cause) -> RenderableType:
    """A cause and its mend."""
    return Group(*_facts(("cause", cause.sentence), ("mend", cause.mend)))


def event_columns(now: datetime) -> list[Column[Event]]:
    """The columns of events; ages until now."""
    return [
        Column("LAST", lambda event: span((now - event.last).total_seconds()), right=True),
        Column("TIMES", lambda event: str(event.count), right=True),
        Column("ABOUT", lambda event: f"{event.kind}/{event.name}"),
        Column("REASON", lambda event: event.reason, style=lambda event: "yellow" if event.type == "Warning" else ""),
        Column("MESSAGE", lambda event: event.message, gives_way=True, folds=True, below=True),
    ]


def _facts(*facts: tuple[str, str]) -> list[RenderableType]:
    """Named sentences, of which a long one is indented where it goes on. Those that are empty are left out."""
    shown: list[RenderableType] = []
    for name, text in facts:
        if text:
            line = Text.assemble((f"{name:<10}", "bold"), text)
            shown.append(Padding(line, 0) if len(text) < 60 else _hanging(name, text))
    return shown


def _hanging(name: str, text: str) -> RenderableType:
    from rich.table import Table

    made = Table.grid(padding=0)
    made.add_column(width=10, no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    made.add_row(name, Text(text))
    return made


def _pod_columns() -> Sequence[Column[PodStatus]]:
    return [
        Column("NODE", lambda pod: "-" if pod.rank is None else str(pod.rank), right=True),
        Column("POD", lambda pod: pod.name, gives_way=True, folds=True),
        Column("STATE", lambda pod: pod.state, style=_pod_style),
        Column("MACHINE", lambda pod: pod.node or "-", gives_way=True, folds=True),
        Column("AGE", lambda pod: span(pod.age_seconds), right=True),
    ]


def _pod_style(pod: PodStatus) -> str:
    if pod.state in ("Running", "Succeeded", "Completed"):
        return "green"
    return "red" if "(" in pod.state or "Err" in pod.state or "BackOff" in pod.state else "yellow"


def _nodes(run: Run) -> str:
    return str(run.nodes) if run.phase.is_end else f"{run.nodes_running}/{run.nodes}"


_PROGRESS: Sequence[tuple[str, Any]] = (
    ("STEP", lambda p: f"{p.step}/{p.steps}" if p.steps else str(p.step)),
    ("LOSS", lambda p: "" if p.loss is None else f"{p.loss:.4f}"),
    ("TOKENS/S", lambda p: short(p.tokens_per_second) if p.tokens_per_second else ""),
    ("LEFT", lambda p: "" if p.seconds_left is None else span(p.seconds_left)),
)


def _cause(run: Run, told: Found) -> str:
    """What holds a run up, as the cluster knows it, or the run itself."""
    waiting = told.get((run.namespace, run.name), Told()).waiting
    return run.cause.sentence if run.cause else f"waiting {waiting.sentence}" if waiting else ""


def _progress_column(title: str, text: Any, told: Found) -> Column[Run]:
    def shown(run: Run) -> str:
        found = told.get((run.namespace, run.name), Told()).progress
        return text(found) if found else ""

    return Column(title, shown, right=True)
