"""What can happen to a run of two nodes, and when: the cases of the chaos suite and of the soak."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faults
from cluster import kubectl, nodes, storage
from faults import Victim
from release import TINY

EVERY = 20
"""Steps between two checkpoints."""
STEPS = 6 * EVERY
SETTINGS: dict[str, Any] = TINY | {
    "model": {"name": "/data/bert"},
    "batch": {"tokens": 256, "samples": 16, "micro_batches": 24},
    "schedule": {"max_steps": STEPS},
    "checkpoint": {"every_steps": EVERY},
}
MIDDLE = EVERY + 10
"""A step between two checkpoints, at which most faults come."""
TWO_MINUTES = 120.0


def delete_a_worker(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1)


def delete_a_worker_by_force(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1, force=True)


def delete_the_master(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0)


def delete_the_master_by_force(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0, force=True)


def delete_both_pods(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(0, 1)


def kill_a_process(run: Victim) -> None:
    run.hit(MIDDLE)
    run.worker(1).kill()


def kill_a_supervisor(run: Victim) -> None:
    run.hit(MIDDLE)
    run.supervisor(1).kill()


def stop_a_process(run: Victim) -> None:
    run.hit(MIDDLE)
    run.worker(1).suspend()


def stop_a_supervisor_for_a_minute(run: Victim) -> None:
    run.hit(MIDDLE)
    supervisor = run.supervisor(1)
    supervisor.suspend()
    time.sleep(60)
    supervisor.resume()


def drain_a_node(run: Victim) -> None:
    run.hit(MIDDLE)
    machine = run.machine(1)
    kubectl.run("drain", machine, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout=180)
    kubectl.run("uncordon", machine)


def kill_within_a_checkpoint(run: Victim) -> None:
    run.until(EVERY)
    run.wait_for_file(f"tmp.{2 * EVERY}.*")
    run.timeline.mark()
    run.worker(0).kill()


def truncate_the_newest_checkpoint(run: Victim) -> None:
    damage(run, lambda file: os.truncate(file, file.stat().st_size // 2))


def flip_a_bit_of_the_newest_checkpoint(run: Victim) -> None:
    damage(run, faults.flip_a_bit)


def delete_a_file_of_the_newest_checkpoint(run: Victim) -> None:
    damage(run, Path.unlink)


def damage(run: Victim, how: Callable[[Path], None]) -> None:
    run.until(2 * EVERY + 5)
    run.timeline.mark()
    how(max(run.published()[-1].glob("*.safetensors"), key=lambda file: file.stat().st_size))
    run.worker(1).kill()


def fill_the_volume_for_two_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with storage.full(leave=1 << 20):
        time.sleep(TWO_MINUTES)


def freeze_the_volume_for_two_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with faults.frozen_volume():
        time.sleep(TWO_MINUTES)


def cut_the_network_for_30_seconds(run: Victim) -> None:
    run.hit(MIDDLE)
    with run.cut_off(1):
        time.sleep(30)


def cut_the_network_for_3_minutes(run: Victim) -> None:
    run.hit(MIDDLE)
    with run.cut_off(1):
        time.sleep(180)


def no_dns_for_a_minute(run: Victim) -> None:
    run.hit(MIDDLE)
    with faults.no_dns():
        run.delete(1, force=True)
        time.sleep(60)


def kill_the_master_while_it_saves_the_model(run: Victim) -> None:
    run.until(5 * EVERY)
    supervisor, worker = run.supervisor(0), run.worker(0)
    run.wait_for_file("tmp.final*")
    run.timeline.mark()
    worker.kill()
    supervisor.kill()


def kill_a_worker_that_has_finished(run: Victim) -> None:
    run.until(5 * EVERY)
    run.wait_for_file("final")
    run.timeline.mark()
    run.delete(1, force=True)


def restart_the_api_server_and_the_operator(run: Victim) -> None:
    run.hit(MIDDLE)
    run.delete(1)
    faults.restart_operator()
    faults.restart_api_server(nodes.NODES[0])


class Case(NamedTuple):
    """lost: steps that may be done twice; a fault that leaves time for a checkpoint costs none. restarts: whether an
    attempt ends by it; None where either may happen."""

    fault: Callable[[Victim], None]
    lost: int = EVERY
    restarts: bool | None = True

    @property
    def name(self) -> str:
        return self.fault.__name__


CASES = (
    Case(delete_a_worker, lost=0),
    Case(delete_a_worker_by_force),
    Case(delete_the_master, lost=0),
    Case(delete_the_master_by_force),
    Case(delete_both_pods, lost=0),
    Case(kill_a_process),
    Case(kill_a_supervisor),
    Case(stop_a_process),
    Case(stop_a_supervisor_for_a_minute),
    Case(drain_a_node, lost=0),
    Case(kill_within_a_checkpoint),
    Case(truncate_the_newest_checkpoint, lost=2 * EVERY),
    Case(flip_a_bit_of_the_newest_checkpoint, lost=2 * EVERY),
    Case(delete_a_file_of_the_newest_checkpoint, lost=2 * EVERY),
    Case(fill_the_volume_for_two_minutes, restarts=None),
    Case(freeze_the_volume_for_two_minutes, restarts=None),
    Case(cut_the_network_for_30_seconds),
    Case(cut_the_network_for_3_minutes),
    Case(no_dns_for_a_minute),
    Case(kill_the_master_while_it_saves_the_model, restarts=None),
    Case(kill_a_worker_that_has_finished, lost=0, restarts=None),
    Case(restart_the_api_server_and_the_operator, lost=0),
)
ON_TRAINJOB = (
    Case(delete_a_worker, lost=0),
    Case(delete_the_master_by_force),
    Case(kill_a_process),
    Case(delete_both_pods, lost=0),
    Case(drain_a_node, lost=0),
)
