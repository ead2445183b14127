"""The soak (`make soak MINUTES=60 SEED=1`): runs on the cluster under one random fault after another.

Each fault comes only after a new checkpoint since the last, and each run must end with the weights of one that was left
alone, bit for bit. What happened goes to `_artifacts/soak.md`, which `make soak` prints.
"""

import os
import random
import time
import uuid
from pathlib import Path
from typing import Any

import cases
from cluster import kubectl
from cluster.kubectl import Object
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from faults import Victim
from release import ROOT, Release, digest
from timeline import Timeline

MINUTES = float(os.environ.get("MINUTES", 60))
SEED = int(os.environ.get("SEED", 1))
STEPS = 20 * cases.EVERY
LAST = STEPS - 3 * cases.EVERY
"""Step of the last fault at most, so that it does not meet the end."""
SETTINGS: dict[str, Any] = cases.SETTINGS | {"schedule": {"max_steps": STEPS}}
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


class NowVictim(Victim):
    """One whose faults come at once, whatever step they name."""

    def until(self, step: int) -> None:
        """Waits for nothing."""


def test_runs_end_the_same_under_random_faults(cluster: Cluster, image: str, inputs: Path) -> None:
    until, number, met = time.monotonic() + MINUTES * 60, 0, 0
    rows = ["| run | faults | attempts | the run |\n", "| --- | --- | --- | --- |\n"]
    whole = one_run("soak-whole", image, inputs, None, until)[0]
    while time.monotonic() < until:
        number += 1
        draw = random.Random(f"{SEED} {number}")
        ending, happened, attempts = one_run(f"soak-{SEED}-{number}", image, inputs, draw, until)
        met += len(happened)
        same = ending == whole
        names = ", ".join(name.replace("_", " ") for name in happened)
        rows.append(f"| {number} | {names} | {attempts} | {'equal weights' if same else 'OTHER WEIGHTS'} |\n")
        keep(rows, f"{number} runs, {met} faults, seed {SEED}")
        assert same, f"run {number} of seed {SEED}: {happened}"
    assert met, "no fault came about"


def one_run(
    name: str, image: str, inputs: Path, draw: random.Random | None, until: float
) -> tuple[str, list[str], int]:
    """A run to its end: the hash of its final weights, the names of the faults that came, and its attempts.

    draw: chooses the faults, None for none. until: after this moment (monotonic) none comes any more.
    """
    namespace = Namespace(f"{name}-{uuid.uuid4().hex[:5]}")  # one that is being removed keeps its name for a while
    namespace.create()
    try:
        run = Release(namespace, image, inputs, {"nodes": 2, "trainer": SETTINGS})
        run.install()
        victim = NowVictim(run, Timeline(run.folder))
        happened: list[str] = []
        with victim.timeline.recorded():
            while draw is not None and new_checkpoints(victim, 1 if happened else 2) and time.monotonic() < until:
                both_run(victim)
                time.sleep(draw.uniform(0, 2))
                fault = draw.choice(FAULTS)
                happened.append(fault.__name__)
                fault(victim)
            run.succeeded()
        return digest(run.folder), happened, victim.timeline.looks[-1].attempt
    finally:
        namespace.remove()


def new_checkpoints(victim: Victim, count: int) -> bool:
    """Waits for new checkpoints; whether it is still early enough for a fault."""

    def newest() -> int:
        steps = [int(path.name.rpartition("-")[2]) for path in victim.published()]
        return max(steps, default=0)

    first = newest()

    def look() -> tuple[bool | None, object]:
        step = newest()
        return (step >= first + count * cases.EVERY or step >= LAST or None), victim.timeline.looks[-1:]

    kubectl.wait("a new checkpoint", look, deadline=600, stall=240)
    return newest() < LAST


def both_run(victim: Victim) -> None:
    """Waits until a fault finds both pods: the new checkpoint may be that of a pod that has been asked to leave."""

    def look() -> tuple[bool | None, object]:
        states = [kubectl.pod_state(pod) for pod in victim.run.pods()]
        running = [pod for pod in victim.run.pods() if pod["status"].get("podIP") and is_running(pod)]
        return (len(running) == 2 or victim.timeline.step >= LAST or None), states

    kubectl.wait("both pods run", look, deadline=300, stall=180)


def is_running(pod: Object) -> bool:
    return pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]


def keep(rows: list[str], title: str) -> None:
    """Writes the table, so that what was seen is there however the soak ends."""
    artifacts = ROOT / "_artifacts"
    artifacts.mkdir(exist_ok=True)
    (artifacts / "soak.md").write_text(f"{title}\n\n{''.join(rows)}")
