"""Runs for tests of trackers: their folders, and what each tracker's own store says of them."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distrain_trainer.settings.model import Settings, changed

MATRIX = {"labels": ["cat", "dog"], "counts": [[3, 1], [0, 2]]}
ANSWERS = [{"prompt": "How are you?", "answer": "well", "expected": "fine"}]


def training_line(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl as the loop writes it."""
    return {"step": step, "epoch": step / 10, "loss": 1 / step, "learning_rate": 1e-3, "grad_norm": 1.0, "mfu": None}


def evaluation_line(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "eval_loss": 2 / step, "eval_accuracy": 1 - 1 / step}


def lines(first: int, last: int) -> list[dict[str, Any]]:
    """The lines of some steps, with an evaluation and a checkpoint after each tenth."""
    found: list[dict[str, Any]] = []
    for step in range(first, last + 1):
        found.append(training_line(step))
        if step % 10 == 0:
            found += [evaluation_line(step), {"step": step, "event": "checkpoint"}]
    return found


def append(folder: Path, *added: dict[str, Any]) -> None:
    """Adds lines to metrics.jsonl, as a run that gets on."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in added))


def begin(folder: Path, trackers: list[str], identity: str = "0123456789ab") -> Path:
    """A run's folder before its first step."""
    folder.mkdir(parents=True)
    settings = changed(Settings(), {"tracking.trackers": trackers, "tracking.name": "my run"})
    facts = {
        "command": ["distrain", "train"],
        "data": {"description": "texts"},
        "git_commit": "c0ffee",
        "world_size": 2,
    }
    record = {"run_id": "team/run1", "tracking_id": identity, "asked": {}, "settings": settings.model_dump(mode="json")}
    (folder / "settings.json").write_text(json.dumps(record | facts))
    (folder / "metrics.jsonl").touch()
    return folder


def conclude(folder: Path, step: int, status: str = "finished") -> None:
    """Adds what a run leaves at its end."""
    info = {"status": status, "step": step, "final": {"loss": 0.5, "accuracy": 0.75}, "answers": ANSWERS}
    info |= {"best": {"metric": "accuracy", "value": 0.8, "step": 10}, "confusion_matrix": MATRIX}
    info |= {"tokens": 1000, "samples": 100, "seconds": 12.5}
    (folder / "training_info.json").write_text(json.dumps(info))
    (folder / "report.html").write_text("<h1>the report</h1>")


def cut_back(folder: Path, step: int) -> None:
    """What a resume does to metrics.jsonl, in a new file."""
    kept = [
        line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if line["step"] <= step
    ]
    (folder / "new").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (folder / "new").replace(folder / "metrics.jsonl")


def event_files(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of the run in a folder."""
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return found.Reload()


def scalars(folder: Path, name: str) -> dict[int, float]:
    """Step -> value of a curve in TensorBoard; fails if a step appears twice."""
    found = event_files(folder) if (folder / "tensorboard").exists() else None
    if found is None or name not in found.Tags()["scalars"]:
        return {}
    events = found.Scalars(name)
    assert len({event.step for event in events}) == len(events), f"a step of {name} appears twice in TensorBoard"
    return {event.step: event.value for event in events}


def mlflow_database(path: Path) -> str:
    """The address of a new database of MLflow, made by MLflow itself, which takes seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    address = f"sqlite:///{path}"
    make: Any = SqlAlchemyStore
    make(address, str(path.with_suffix("")))
    return address


def mlflow_values(path: Path, name: str) -> dict[int, float]:
    """Step -> value of a metric in the database; fails if a step appears twice, or if there are several runs."""
    with sqlite3.connect(path) as database:
        found = database.execute("select run_uuid, step, value from metrics where key = ?", (name,)).fetchall()
    assert len({run for run, _, _ in found}) <= 1, "more than one run in MLflow"
    assert len({step for _, step, _ in found}) == len(found), f"a step of {name} appears twice in MLflow"
    return {step: value for _, step, value in found}


@contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[str]:
    """A real `mlflow server`, as a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ("--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts"))
    command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(1200):
            assert process.poll() is None, (folder / "server.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def free_port() -> int:
    """A port at which nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
