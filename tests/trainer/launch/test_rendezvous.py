"""Supervisors of several nodes in a simulated world: whatever happens to them, the run is finished, once."""

import inspect
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from simulation import Broken, Supervisor, World

SEEDS = int(os.environ.get("SEEDS", 150))
FEW = 500
"""Runs in which the lack of a mend shows."""
ENOUGH = 1500.0
"""Seconds after the last fault in which a run must be finished."""


def newest(world: World, index: int) -> Supervisor:
    return [found for found in world.supervisors if found.node.index == index][-1]


def replace_those_that_left(world: World) -> None:
    """As the operator does: a pod that has left with 128 or above is made anew."""
    for index in range(world.nodes):
        last = newest(world, index)
        if not last.alive and (last.code >= 128 or last.code == -1):
            world.after(world.between(1, 20), partial(start_again, world, index))
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
        world.start(chance.randrange(1, world.nodes), run="another")
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

    def left() -> list[str]:
        return [found.nonce for found in world.supervisors if found.run == "run" and found.alive]

    if not world.run_until(world.now + ENOUGH, lambda: world.volume.finished and not left()):
        raise Broken(f"after {ENOUGH:.0f} s the run is not over; there are {left()}, finished: {world.volume.finished}")


def check(seed: int, **options: Any) -> None:
    world = World(seed, nodes=random.Random(seed).choice([1, 2, 2, 2, 3]), **options)
    try:
        live_through(world, seed)
    except Broken as broken:
        raise Broken(f"seed {seed}: {broken}\n" + "\n".join(world.story[-60:])) from None


@pytest.mark.parametrize("seed", range(0, SEEDS, 25))
def test_whatever_happens_the_run_is_finished_once(seed: int) -> None:
    for number in range(seed, seed + 25):
        check(number)


def test_nodes_are_called_by_their_machines() -> None:
    world = World(1)
    first, second = world.start(0), world.start(1)
    world.run_until(60, lambda: second.running is not None and second.running.training)
    assert second.running is not None
    second.running.die()
    world.run_until(90)
    told = [line for line in world.story if "process was killed" in line]
    assert len(told) == 2 and all("node 1 (gpu-1): process was killed" in line for line in told)
    assert world.run_until(ENOUGH, lambda: not first.alive and not second.alive) and world.volume.finished


@pytest.mark.parametrize("fault", ["lost_until", "full_until"])
def test_a_volume_that_is_away_or_full_is_waited_for_but_not_for_ever(fault: str) -> None:
    for until, code in ((3000.0, 0), (1e9, 69)):
        world = World(1)
        node = world.start(0)
        world.start(1)
        node.max_wait = 3600.0
        setattr(world.volume, fault, until)
        assert world.run_until(6000, lambda node=node: not node.alive)  # type: ignore[misc]
        assert node.code == code and world.volume.finished == (code == 0)
    assert "waited 1 h (checkpoint.max_wait_hours) for what does not pass: the volume " in world.story[-1]


def test_another_build_is_refused() -> None:
    world = World(1)
    world.start(0)
    world.start(1).facts = {"the hash of the settings": "old"}
    with pytest.raises(Broken, match=r"with 64: .* settings is old on node 1 \(gpu-1\) and run on node 0 \(gpu-0\)"):
        world.run_until(60)


Edit = tuple[str, str, str]
"""Module of distrain_trainer.launch, what stands in it, and what stands there instead."""
REAP_LAST: Edit = (
    "attempts",
    "        over = workers.over()\n        report = workers.cause()\n",
    "        report = workers.cause()\n        over = workers.over()\n",
)
ZERO_AT_ONCE: Edit = (
    "attempts",
    "            if (yield from _finished(around)):\n                return\n",
    "            return\n",
)
CONNECT_BLINDLY: Edit = (
    "attempts",
    "        check(around)\n        try:\n            return around.connect()",
    "        try:\n            return around.connect()",
)
WATCH_BLINDLY: Edit = (
    "attempts",
    "        around.check_lock()\n        if around.now() - looked > LOOKED_EVERY:",
    "        if False:",
)
ONE_KEY: Edit = (
    "coordinator",
    "return self._heard.get((index, self._started[index - 1].nonce), (self._started[index - 1], NEVER))",
    "return max((heard for (i, _), heard in self._heard.items() if i == index), key=lambda heard: heard[1])",
)
MENDS: dict[str, tuple[Edit, ...]] = {
    "reap first, and 0 only where the finished mark stands": (REAP_LAST, ZERO_AT_ONCE),
    "a superseded supervisor leaves": (
        ("coordinator", "    around.check_lock()\n", ""),
        ("attempts", "    _check_ours(found, progress.begun)\n", ""),
        ("attempts", "        if isinstance(error, Superseded):\n            raise\n", ""),
        WATCH_BLINDLY,
    ),
    "the finished mark is final": (
        ("coordinator", "    if around.finished(lately=True):\n        raise RunFinished\n", ""),
    ),
    "every waiting loop of a member looks for the finished mark": (
        ("member", "            check(self._around)\n", ""),
        ("member", "        check(around)\n", ""),
        CONNECT_BLINDLY,
    ),
    "each member has a key of its own": (ONE_KEY,),
}


def without(edits: tuple[Edit, ...]) -> Callable[[Any], Any]:
    """The supervisor's program with these edits."""
    package = "distrain_trainer.launch"
    made: dict[str, ModuleType] = {}
    for name in ("coordinator", "member", "attempts"):
        source = inspect.getsource(import_module(f"{package}.{name}"))
        for module, old, new in edits:
            if module == name:
                assert old in source, old
                source = source.replace(old, new)
        made[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
        with mock.patch.dict(sys.modules, made):
            exec(compile(source, name, "exec"), vars(made[f"{package}.{name}"]))
    program: Callable[[Any], Any] = made[f"{package}.attempts"].take_part
    return program


def finds_fault(**options: Any) -> bool:
    """Whether one of the simulated runs does not end as it must."""
    for seed in range(FEW):
        try:
            check(seed, **options)
        except Broken:
            return True
    return False


@pytest.mark.parametrize("edits", MENDS.values(), ids=list(MENDS))
def test_the_simulation_finds_what_each_mend_is_for(edits: tuple[Edit, ...]) -> None:
    assert finds_fault(take_part=without(edits))


def test_it_finds_that_a_strangers_words_are_heard() -> None:
    assert finds_fault(named=False)
