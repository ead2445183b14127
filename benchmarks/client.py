"""How long the client takes: help, one run's status, and a list of 1,000 runs with 8,192 pods.

    .venv/bin/python benchmarks/client.py

The API server is the tests' own, in a process of its own on this machine, and its answers are rendered in advance: what
is measured is the client, from typing to the last line. Medians of five.
"""

import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "k8s" / "support"))

from fake_cluster import FakeCluster
from made import pod, pytorchjob

RUNS, PODS = 1000, 8192
ROUNDS = 5
FULL_POD = 4500
"""Bytes of a run's pod as an API server sends it, environment, mounts and tolerations included."""


def serve(pipe: Connection) -> None:
    """An API server with all runs, until told to end; a list is rendered once for each of its pages."""
    cluster = FakeCluster()
    cluster.put("kubeflow.org/v1/pytorchjobs", *(pytorchjob(f"run-{n}", nodes=nodes(n)) for n in range(RUNS)))
    pods = [pod(f"run-{n}", rank) for n in range(RUNS) for rank in range(nodes(n))]
    for made in pods:
        made["metadata"]["annotations"] = {"padding": "x" * (FULL_POD - len(json.dumps(made)))}
    cluster.objects["pods"] = pods
    cluster.log("run-0-master-0", json.dumps({"step": 10, "steps": 429, "loss": 0.25, "tokens_per_second": 1680.0}))
    cluster.remember()
    pipe.send(cluster.address)
    pipe.recv()
    cluster.close()


def nodes(run: int) -> int:
    """Nodes of each run, 8,192 in all."""
    return PODS // RUNS + (run < PODS % RUNS)


def seconds(*arguments: str) -> tuple[float, str]:
    """Median seconds of a command, and what it printed."""
    taken, out = [], ""
    for _ in range(ROUNDS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "distrain_k8s.cli", *arguments]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), out


def main() -> None:
    """Measures and prints one line for each command."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    address = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        config: dict[str, Any] = {
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "team"}}],
            "clusters": [{"name": "fake", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {"token": "good"}}],
        }
        file = Path(folder) / "kubeconfig"
        file.write_text(json.dumps(config))
        to = ("--kubeconfig", str(file))
        help_seconds, _ = seconds("--help")
        status_seconds, _ = seconds("status", "run-0", *to)
        list_seconds, listed = seconds("list", *to)
    ours.send("end")
    server.join()
    assert len(listed.splitlines()) == RUNS + 1, listed[:500]
    print(f"distrain --help          {help_seconds * 1000:6.0f} ms")
    print(f"distrain status RUN      {status_seconds * 1000:6.0f} ms")
    print(f"distrain list            {list_seconds * 1000:6.0f} ms  ({RUNS:,} runs, {PODS:,} pods)")


if __name__ == "__main__":
    main()
