"""Supervisors of several nodes in a simulated world: whatever happens to them, the run is finished, once."""

import inspect
import os
import random
import re
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
        if index in world.gone:
            continue
        if not last.alive and (last.code >= 128 or last.code == -1):
            world.after(world.between(1, 20), partial(start_again, world, index))
            last.code = -2  # is being replaced
    world.after(1.0, lambda: replace_those_that_left(world))


def start_again(world: World, index: int) -> None:
    if index not in world.gone:
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
    begin(world)
    for _ in range(chance.randrange(6)):
        world.run_until(world.now + chance.expovariate(1 / 25))
        fault(world, chance)
    finish(world)


def live_through_with_fewer(world: World, seed: int) -> None:
    """The same where nodes are lost, some of which come back and others not until the run is finished."""
    chance = random.Random(seed)
    assert world.min_nodes is not None
    may_be_lost = chance.sample(range(1, world.nodes), min(world.nodes - world.min_nodes, world.nodes - 1))
    begin(world)
    for index in may_be_lost[: chance.choice([0, 0, 0, 1])]:  # before the first step, until which all are needed
        lose_or_return(world, index)
        world.after(chance.uniform(1, 150), partial(lose_or_return, world, index))
    if not world.run_until(ENOUGH, lambda: world.volume.step >= 0):
        raise Broken("the run has not begun")
    for _ in range(chance.randrange(8)):
        world.run_until(world.now + chance.expovariate(1 / 25))
        if may_be_lost and chance.random() < 0.6:
            lose_or_return(world, chance.choice(may_be_lost))
        else:
            fault(world, chance)
    for index in may_be_lost:
        if index not in world.gone and chance.random() < 0.5:
            lose_or_return(world, index)
    finish(world)
    for index in sorted(world.gone):
        lose_or_return(world, index)
    finish(world)


def lose_or_return(world: World, index: int) -> None:
    if index in world.gone:
        world.gone.discard(index)
        start_again(world, index)
        return
    world.tell(f"fault: node {index} is lost")
    world.gone.add(index)
    for found in world.supervisors:
        if found.node.index == index:
            found.kill()


def begin(world: World) -> None:
    for index in range(world.nodes):
        world.start(index)
    world.after(1.0, lambda: replace_those_that_left(world))


def finish(world: World) -> None:
    """Lets the run come to its end. Raises Broken where it does not."""

    def left() -> list[str]:
        return [found.nonce for found in world.supervisors if found.run == "run" and found.alive]

    if not world.run_until(world.now + ENOUGH, lambda: world.volume.finished and not left()):
        raise Broken(f"after {ENOUGH:.0f} s the run is not over; there are {left()}, finished: {world.volume.finished}")


def check_with_fewer(seed: int, **options: Any) -> None:
    chance = random.Random(seed)
    nodes = chance.choice([2, 3, 3, 4])
    elastic = {"min_nodes": chance.randint(1, nodes), "patience": chance.choice([3.0, 15.0, 60.0])}
    check(seed, live_through_with_fewer, nodes=nodes, steps=15, **elastic, **options)


def check(seed: int, live: Callable[[World, int], None] = live_through, **options: Any) -> None:
    nodes = {"nodes": random.Random(seed).choice([1, 2, 2, 2, 3])}
    world = World(seed, **nodes | options)
    try:
        live(world, seed)
    except Broken as broken:
        raise Broken(f"seed {seed}: {broken}\n" + "\n".join(world.story[-60:])) from None


@pytest.mark.parametrize("seed", range(0, SEEDS, 25))
def test_whatever_happens_the_run_is_finished_once(seed: int) -> None:
    for number in range(seed, seed + 25):
        check(number)


@pytest.mark.parametrize("seed", range(0, SEEDS, 25))
def test_whoever_is_lost_the_run_goes_on_with_those_that_are_there(seed: int) -> None:
    for number in range(seed, seed + 25):
        check_with_fewer(number)


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
    told = r"waited 1(\.\d+)? h \(checkpoint.max_wait_hours\) for what does not pass: the volume "
    assert re.search(told, world.story[-1])


def test_a_node_whose_replacement_waits_is_given_up_after_3_seconds() -> None:
    world = World(1)
    first, second = world.start(0), world.start(1)
    world.run_until(60, lambda: second.running is not None and second.running.training)
    second.kill()
    world.start(1)
    began = world.now
    assert world.run_until(began + 8, lambda: first.running is None)
    assert world.run_until(began + 12, lambda: world.volume.attempts.attempt == 2)


def test_a_meeting_in_vain_is_not_taken_for_the_next_one() -> None:
    world = World(1, nodes=3)
    nodes = [world.start(index) for index in range(3)]
    world.run_until(60, lambda: world.volume.step >= 0)
    nodes[2].kill()
    world.run_until(world.now + 20)
    world.volume.lost_until = world.now + 20
    again = world.start(2)
    world.run_until(world.now + 15)
    again.kill()
    world.run_until(world.now + 60)
    assert world.volume.attempts.attempt == 1, "there is no third node"
    world.start(2)
    assert world.run_until(world.now + ENOUGH, lambda: world.volume.finished) and world.volume.attempts.attempt == 2


def fewer(**options: Any) -> tuple[World, list[Supervisor]]:
    """A run of three nodes that has begun, goes on with one, and waits 30 s before that."""
    world = World(1, nodes=3, min_nodes=1, steps=60, **options)
    nodes = [world.start(index) for index in range(3)]
    assert world.run_until(60, lambda: world.volume.step >= 1)
    return world, nodes


def takes_part(world: World, nodes: list[int], within: float = 120.0) -> bool:
    """Whether these nodes take the next steps."""
    return world.run_until(world.now + within, lambda: world.volume.dealt[-1] == nodes)


def test_a_lost_node_is_waited_for_and_then_left_out_and_let_in_when_it_is_back() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert not takes_part(world, [0, 2], within=35), "10 s of silence, and 30 s"
    assert takes_part(world, [0, 2]) and world.volume.attempts.spent == 0
    before = world.volume.step
    world.start(1)
    assert takes_part(world, [0, 1, 2]) and world.volume.attempts.spent == 0
    attempts = list(dict.fromkeys(world.volume.publishers))
    assert attempts == [1, 2, 3] and world.volume.step > before


def test_a_second_loss_does_not_wait_for_the_first_again() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert takes_part(world, [0, 2])
    nodes[2].running.die()  # type: ignore[union-attr]
    began = world.now
    assert world.run_until(began + 15, lambda: world.volume.attempts.attempt == 3)
    assert world.volume.attempts.nodes == [0, 2]
    assert world.run_until(world.now + 60, lambda: world.volume.publishers[-1] == 3)
    nodes[2].kill()
    assert takes_part(world, [0])
    world.start(2)
    world.start(1)
    assert takes_part(world, [0, 1, 2])


def test_node_0_must_come_back() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert takes_part(world, [0, 2])
    nodes[0].kill()
    step = world.volume.step
    world.run_until(world.now + 300)
    assert world.volume.step == step and nodes[2].alive
    world.start(0)
    assert takes_part(world, [0, 2]) and world.run_until(world.now + 120, lambda: world.volume.step > step)


def test_a_node_that_leaves_again_before_the_checkpoint_ends_nothing() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert takes_part(world, [0, 2])
    assert nodes[0].running is not None
    nodes[0].running.group.world.volume.lost_until = world.now + 30  # so that no checkpoint is published
    back = world.start(1)
    assert world.run_until(world.now + 10, lambda: nodes[0].running is not None and nodes[0].running.regrouping)
    back.kill()
    assert world.run_until(world.now + 14, lambda: nodes[0].running is not None and not nodes[0].running.regrouping)
    world.run_until(world.now + 60)
    assert world.volume.attempts.attempt == 2 and world.volume.dealt[-1] == [0, 2]


def test_a_node_of_another_build_is_not_let_in() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert takes_part(world, [0, 2])
    world.start(1).facts = {"the hash of the settings": "old"}
    world.run_until(world.now + 60)
    assert world.volume.attempts.attempt == 2 and world.volume.dealt[-1] == [0, 2]
    assert sum("node 1 (gpu-1) is back and is not let in: the hash of" in line for line in world.story) == 1


def test_before_the_first_step_all_are_waited_for() -> None:
    world = World(1, nodes=2, min_nodes=1)
    world.start(0)
    world.run_until(1000)
    assert world.volume.attempts.attempt == 0
    world.start(1)
    assert world.run_until(1100, lambda: world.volume.dealt == [[0, 1]])


def test_a_node_that_was_left_out_leaves_when_the_run_is_finished() -> None:
    world, nodes = fewer()
    nodes[1].kill()
    assert takes_part(world, [0, 2])
    assert world.run_until(world.now + ENOUGH, lambda: world.volume.step == world.steps - 2)
    waiting = world.start(1)
    assert world.run_until(world.now + ENOUGH, lambda: not waiting.alive) and waiting.code == 0
    late = world.start(2)
    assert world.run_until(world.now + ENOUGH, lambda: not late.alive) and late.code == 0


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
    "return self._heard.get((index, self._started[index].nonce), (self._started[index], NEVER))",
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
WITH_FEWER: dict[str, tuple[Edit, ...]] = {
    "before the first step all are waited for": (
        (
            "attempts",
            "        elastic = around.min_nodes is not None and around.holds_run()\n",
            "        elastic = True\n",
        ),
    ),
    "a node that is back is let in": (("attempts", "            workers.regroup(bool(back))\n", ""),),
    "a node that is back is waited for": (
        (
            "coordinator",
            "return set(self._indices) - self._started.keys() - self._members().keys()",
            "return set(self._indices) - self._started.keys()",
        ),
    ),
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


def finds_fault(check: Callable[..., None] = check, **options: Any) -> bool:
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


@pytest.mark.parametrize("edits", WITH_FEWER.values(), ids=list(WITH_FEWER))
def test_the_simulation_finds_what_each_mend_is_for_where_nodes_stay_away(edits: tuple[Edit, ...]) -> None:
    assert finds_fault(check_with_fewer, take_part=without(edits))


def test_it_finds_that_a_strangers_words_are_heard() -> None:
    assert finds_fault(named=False)
