"""The soak (`make soak MINUTES=60 SEED=1`): runs on the cluster under one random fault after another.

Each run must end with the weights of one that was left alone, bit for bit. What happened goes to `_artifacts/soak.md`,
which `make soak` prints.
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import cases
from cluster.lifecycle import Cluster
from release import ROOT
from sequence import Fault, one_run

MINUTES = float(os.environ.get("MINUTES", 60))
SEED = int(os.environ.get("SEED", 1))
FAULTS = (
    cases.delete_a_worker,
    cases.delete_a_worker_by_force,
    cases.delete_the_master,
    cases.delete_the_master_by_force,
    cases.delete_both_pods,
    cases.kill_a_process,
    cases.kill_a_supervisor,
    cases.stop_a_process,
    cases.stop_a_supervisor_for_a_minute,
    cases.drain_a_node,
    cases.truncate_the_newest_checkpoint,
    cases.flip_a_bit_of_the_newest_checkpoint,
    cases.delete_a_file_of_the_newest_checkpoint,
    cases.cut_the_network_for_30_seconds,
)


def test_runs_end_the_same_under_random_faults(cluster: Cluster, image: str, inputs: Path) -> None:
    until, number, met = time.monotonic() + MINUTES * 60, 0, 0
    rows = ["| run | faults | attempts | the run |\n", "| --- | --- | --- | --- |\n"]
    whole = one_run("soak-whole", image, inputs, iter(())).digest
    while time.monotonic() < until:
        number += 1
        ended = one_run(f"soak-{SEED}-{number}", image, inputs, drawn(random.Random(f"{SEED} {number}"), until))
        met += len(ended.faults)
        same = ended.digest == whole
        names = ", ".join(name.replace("_", " ") for name in ended.faults)
        rows.append(f"| {number} | {names} | {ended.attempts} | {'equal weights' if same else 'OTHER WEIGHTS'} |\n")
        keep(rows, f"{number} runs, {met} faults, seed {SEED}")
        assert same, f"run {number} of seed {SEED}: {ended.faults}"
    assert met, "no fault came about"


def drawn(draw: random.Random, until: float) -> Iterator[Fault]:
    """Random faults, none after a moment (monotonic)."""
    while time.monotonic() < until:
        time.sleep(draw.uniform(0, 2))
        yield draw.choice(FAULTS)


def keep(rows: list[str], title: str) -> None:
    """Writes the table, so that what was seen is there however the soak ends."""
    artifacts = ROOT / "_artifacts"
    artifacts.mkdir(exist_ok=True)
    (artifacts / "soak.md").write_text(f"{title}\n\n{''.join(rows)}")
