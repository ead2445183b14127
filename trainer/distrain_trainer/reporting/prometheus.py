"""A Prometheus endpoint with the newest numbers of a run.

It reads only the run's folder, so it answers on every node, and also while no worker is running.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from distrain_trainer.storage.attempts import read_attempts

TAIL = 64 * 1024
"""Bytes read from the end of metrics.jsonl."""
GAUGES = {
    "step": "Optimizer steps done.",
    "epoch": "Passes over the data done.",
    "loss": "Training loss of the newest step, in nats per target.",
    "learning_rate": "Learning rate of the newest step.",
    "grad_norm": "Gradient norm of the newest step, before clipping.",
    "tokens_per_second": "Tokens per second of the newest step, padding excluded, over all processes.",
    "step_seconds": "Duration of the newest step in seconds.",
    "memory_bytes": "Peak memory of process 0 in bytes.",
    "nodes": "Nodes that took part in the newest step.",
}


class RunCollector(Collector):
    """The gauges of the run in a folder; those without a value yet are left out."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Reads the files at each scrape."""
        attempt = read_attempts(self._folder).attempt
        yield GaugeMetricFamily("distrain_attempt", "Number of the newest attempt.", value=attempt)
        newest = newest_step(self._folder / "metrics.jsonl")
        for name, description in GAUGES.items():
            if newest.get(name) is not None:
                yield GaugeMetricFamily(f"distrain_{name}", description, value=newest[name])
        if straggler := newest.get("straggler"):
            description = "Times the usual that the slowest process takes for a token, where that is over 1.5 for long."
            slow = GaugeMetricFamily("distrain_straggler_ratio", description, labels=["process", "node"])
            slow.add_metric([str(straggler["process"]), straggler["node"]], straggler["ratio"])
            yield slow


def newest_step(path: Path) -> dict[str, Any]:
    """The newest training line of metrics.jsonl; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL, 0))
            texts = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for text in reversed(texts):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "loss" in line:
            return line
    return {}


def export(folder: Path, port: int) -> None:
    """Serves the gauges of the run in `folder` at /metrics, from a thread. Raises OSError where the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(folder))
    start_http_server(port, registry=registry)
