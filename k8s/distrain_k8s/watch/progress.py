"""How far a run is and what it waits for, from the last lines of its master's log: pods hold no token for the cluster,
so the log tells.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from distrain_k8s.diagnose.redact import redacted_line
from distrain_k8s.errors import ClientError, NotFound, Rejected
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.resources import PODS
from distrain_k8s.output import span
from distrain_k8s.runs.status import Phase, Run
from distrain_k8s.watch.lines import read_line

LINES = 40
"""Of the log, which has at most one line of progress a second."""
AT_ONCE = 8


@dataclass(frozen=True)
class Progress:
    """step: of `steps` in all, None where an older trainer does not say. tokens_per_second: real tokens, of all
    processes. seconds_left: at the speed of the last lines. at: when the line was written, as the machine's clock has
    it. straggler: the process that all wait for, in words; None where there is none. nodes: those that took part; None
    where an older trainer does not say. of_nodes: those of the run, None where that is not known."""

    step: int
    steps: int | None
    epoch: float | None
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    at: datetime | None = None
    straggler: str | None = None
    nodes: int | None = None
    of_nodes: int | None = None

    @property
    def sentence(self) -> str:
        """`step 120 of 429, epoch 0.84, loss 0.4123, 1.68k tokens/s, 2m10s left`."""
        parts = [f"step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")]
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch:.2f}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.tokens_per_second:
            parts.append(f"{short(self.tokens_per_second)} tokens/s")
        if self.seconds_left is not None:
            parts.append(f"{span(self.seconds_left)} left")
        if self.nodes and self.of_nodes and self.nodes < self.of_nodes:
            parts.append(f"on {self.nodes} of {self.of_nodes} nodes")
        if self.straggler:
            parts.append(self.straggler)
        return ", ".join(parts)

    @property
    def data(self) -> dict[str, Any]:
        """As plain data, for json and yaml."""
        return asdict(self)


@dataclass(frozen=True)
class Waiting:
    """What a run waits for before it goes on, in words. since: by the clock of its machine."""

    message: str
    since: datetime

    @property
    def sentence(self) -> str:
        """`since 2026-03-01 12:00 UTC: the Hub answered 503 for model owner/name`."""
        return f"since {self.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {self.message}"


@dataclass(frozen=True)
class Told:
    """What the end of a log tells. progress: None where none of its lines is of a step. waiting: None where the run
    does not wait, as far as the log says."""

    progress: Progress | None = None
    waiting: Waiting | None = None

    @property
    def data(self) -> dict[str, Any]:
        """As plain data, for json and yaml."""
        return {
            "progress": self.progress.data if self.progress else None,
            "waiting": asdict(self.waiting) if self.waiting else None,
        }


def read_told(lines: Iterable[str], of_nodes: int | None = None) -> Told:
    """What a log tells. lines: with or without times. of_nodes: nodes of the run."""
    steps: list[tuple[datetime | None, Mapping[str, Any]]] = []
    waiting: Waiting | None = None
    for raw in lines:
        line = read_line(raw)
        start = line.text.find("{")
        if start < 0:
            continue
        try:
            found = json.loads(line.text[start:])
        except ValueError:
            continue
        if not isinstance(found, dict):
            continue
        if found.get("event") == "waiting":
            waiting = _waiting(found)
        elif isinstance(found.get("step"), int):
            waiting = None
            if "loss" in found:
                if steps and found["step"] <= steps[-1][1]["step"]:
                    steps.clear()  # the run was started again, from a checkpoint
                steps.append((line.time, found))
    return Told(_progress(steps, of_nodes), waiting)


def _waiting(found: Mapping[str, Any]) -> Waiting | None:
    try:
        return Waiting(redacted_line(str(found["message"])), datetime.fromisoformat(found["since"]))
    except (KeyError, TypeError, ValueError):
        return None


def _progress(steps: list[tuple[datetime | None, Mapping[str, Any]]], of_nodes: int | None) -> Progress | None:
    if not steps:
        return None
    at, last = steps[-1]
    total = last.get("steps")
    pace = _seconds_per_step(steps)
    return Progress(
        step=last["step"],
        steps=total,
        epoch=last.get("epoch"),
        loss=last.get("loss"),
        tokens_per_second=last.get("tokens_per_second"),
        seconds_left=None if total is None or pace is None else (total - last["step"]) * pace,
        at=at,
        straggler=_straggler(last.get("straggler")),
        nodes=last.get("nodes"),
        of_nodes=of_nodes,
    )


def told_by(api: Api, run: Run) -> Told:
    """What a run tells of itself; nothing where its master has no log."""
    master = next((pod for pod in run.pods if pod.rank == 0), None)
    if master is None or run.phase in (Phase.PENDING, Phase.QUEUED):
        return Told()
    query = {"tailLines": LINES, "timestamps": True}
    try:
        with api.stream(PODS, master.name, "log", query, read=api.patience.read, namespace=run.namespace) as lines:
            told = read_told((line.decode(errors="replace") for line in lines), run.nodes)
    except (NotFound, Rejected):
        return Told()
    return replace(told, waiting=None) if run.phase.is_end else told


def told_by_all(api: Api, runs: Iterable[Run]) -> dict[tuple[str, str], Told]:
    """Namespace and name of each run -> what it tells; nothing also where its log cannot be read now."""

    def one(run: Run) -> Told:
        try:
            return told_by(api, run)
        except ClientError:
            return Told()

    runs = list(runs)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(one, runs))
    return {(run.namespace, run.name): told for run, told in zip(runs, found, strict=True)}


def short(number: float) -> str:
    """A number in three figures and a unit: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def _straggler(found: Mapping[str, Any] | None) -> str | None:
    """`process 3 on node 1 (gpu-17) is 2.1 x as slow as the others`."""
    if not found:
        return None
    return f"process {found['process']} on {found['node']} is {found['ratio']:.1f} x as slow as the others"


def _seconds_per_step(steps: list[tuple[datetime | None, Mapping[str, Any]]]) -> float | None:
    """By the clock of the log where several lines tell, else as long as the last step took."""
    (first_time, first), (last_time, last) = steps[0], steps[-1]
    if first_time and last_time and last["step"] > first["step"] and last_time > first_time:
        return (last_time - first_time).total_seconds() / float(last["step"] - first["step"])
    seconds = last.get("step_seconds")
    return float(seconds) if seconds else None
