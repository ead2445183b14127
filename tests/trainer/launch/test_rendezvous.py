"""Supervisors of several nodes in a simulated world: whatever happens to them, the run is finished, once."""

import os
import random

import pytest

from simulation import Broken, Supervisor, World

SEEDS = int(os.environ.get("SEEDS", 150))
ENOUGH = 1500.0
"""Seconds after the last fault in which a run must be finished."""


def newest(world: World, index: int) -> Supervisor:
    return [found for found in world.supervisors if found.node.index == index][-1]


def replace_those_that_left(world: World) -> None:
    """As the operator does: a pod that has left with 128 or above is made anew."""
    for index in range(world.nodes):
        last = newest(world, index)
        if not last.alive and (last.code >= 128 or last.code == -1):
            world.after(world.between(1, 20), lambda index=index: start_again(world, index))
            last.code = -2  # is being replaced
    world.after(1.0, lambda: replace_those_that_left(world))


def start_again(world: World, index: int) -> None:
    world.tell(f"node {index} is made anew")
    world.start(index)


def fault(world: World, chance: random.Random) -> None:
    """Something happens to a node."""
    victim = newest(world, chance.randrange(world.nodes))
    kind = chance.choice(["kill", "worker", "pause", "freeze", "ask", "cut", "replace", "volume", "stranger"])
    world.tell(f"fault: {kind} {victim.nonce}")
    if kind == "kill":
        victim.kill()
    elif kind == "worker" and victim.running:
        victim.running.die()
    elif kind == "pause":
        victim.pause(chance.uniform(1, 40), machine=False)
    elif kind == "freeze":
        victim.pause(chance.uniform(1, 40), machine=True)
    elif kind == "ask":
        victim.ask()
    elif kind == "cut":
        world.cut_until[victim.node.index] = world.now + chance.uniform(1, 30)
    elif kind == "replace":  # while the old one still runs, as on a node that is lost for the control plane only
        world.start(victim.node.index)
    elif kind == "volume":
        world.volume.lost_until = world.now + chance.uniform(1, 90)
    elif kind == "stranger" and world.nodes > 1:
        world.start(chance.randrange(1, world.nodes), run="another", facts={"the hash of the settings": "other"})
        world.supervisors.insert(0, world.supervisors.pop())


def live_through(world: World, seed: int) -> None:
    """A run of some faults; raises Broken where it does not end as it must."""
    chance = random.Random(seed)
    for index in range(world.nodes):
        world.start(index)
    world.after(1.0, lambda: replace_those_that_left(world))
    for _ in range(chance.randrange(6)):
        world.run_until(world.now + chance.expovariate(1 / 25))
        fault(world, chance)
    ours = lambda: [found for found in world.supervisors if found.run == "run"]  # noqa: E731
    if not world.run_until(world.now + ENOUGH, lambda: world.volume.finished and not any(s.alive for s in ours())):
        left = [found.nonce for found in ours() if found.alive]
        raise Broken(f"after {ENOUGH:.0f} s the run is not over; there are {left}, finished: {world.volume.finished}")


def check(seed: int, **options: object) -> None:
    world = World(seed, nodes=random.Random(seed).choice([1, 2, 2, 2, 3]), **options)  # type: ignore[arg-type]
    try:
        live_through(world, seed)
    except Broken as broken:
        raise Broken(f"seed {seed}: {broken}\n" + "\n".join(world.story[-60:])) from None


@pytest.mark.parametrize("seed", range(0, SEEDS, 10))
def test_whatever_happens_the_run_is_finished_once(seed: int) -> None:
    for number in range(seed, seed + 10):
        check(number)
