"""Supervisors of several nodes, run by a clock of this program's own: their real code, in a simulated world.

The world has processes that can be killed, paused, asked to leave and replaced, a network that can be cut, a volume,
and workers that train. Everything random comes from one seed, so that what goes wrong once goes wrong again.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from torch.distributed import DistError

from distrain_trainer.errors import DistrainError, FailureReport, LostPeer, Regrouping, Stopped, Superseded, VolumeLost
from distrain_trainer.launch import attempts as real
from distrain_trainer.launch.messages import Start
from distrain_trainer.launch.node import Node
from distrain_trainer.launch.store import NEVER
from distrain_trainer.storage.attempts import Attempts, check_budget, ended, following

STEPS = 6
"""Steps of a run, each of which publishes a checkpoint."""
LET_IN_WITHIN = 6
"""Steps in a row at which a node may be there without taking part."""
STARTING = (5.0, 20.0)
"""Seconds between the start of workers and their first step."""
RESET = (0.1, 3.0)
"""Seconds until a worker notices that its peer is gone."""
BEAT = 1.0


class Broken(AssertionError):
    """The world has seen what must never happen."""


@dataclass
class Volume:
    """The run's folder. step: of the newest checkpoint, -1 before the first. publishers: the attempt behind each
    checkpoint. dealt: the nodes that took part in each. holder: node 0's process that holds its lock. lost_until: until
    when it answers nobody. full_until: until when no attempt can be recorded."""

    attempts: Attempts = field(default_factory=Attempts)
    step: int = -1
    finished: bool = False
    publishers: list[int] = field(default_factory=list)
    dealt: list[list[int]] = field(default_factory=list)
    holder: "Supervisor | None" = None
    lost_until: float = 0.0
    full_until: float = 0.0


class World:
    """A run of `nodes` nodes. take_part: the supervisor's program. named: whether keys of the store carry the run's
    name. min_nodes, patience: as in `Surroundings`. gone: indices of nodes that are not replaced."""

    def __init__(
        self,
        seed: int,
        nodes: int = 2,
        take_part: Callable[[Any], Any] = real.take_part,
        named: bool = True,
        min_nodes: int | None = None,
        patience: float = 30.0,
        steps: int = STEPS,
    ):
        self.now, self.random, self.nodes, self.take_part = 0.0, random.Random(seed), nodes, take_part
        self.named, self.min_nodes, self.patience, self.steps = named, min_nodes, patience, steps
        self.gone: set[int] = set()
        self.volume = Volume()
        self.stores: dict[str, Store] = {}
        """Address -> node 0's store there."""
        self.groups: dict[tuple[int, str], Group] = {}
        self.supervisors: list[Supervisor] = []
        self.cut_until: dict[int, float] = {}
        """Index of a node -> until when the network does not reach it."""
        self.waiting: dict[int, int] = {}
        """Index of a node -> steps in a row at which it was there without taking part."""
        self.story: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Has something happen later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._number), do))

    def between(self, shortest: float, longest: float) -> float:
        return self.random.uniform(shortest, longest)

    def run_until(self, end: float, over: Callable[[], bool] = lambda: False) -> bool:
        """Lets time go by, at most until `end`; whether it was `over` before."""
        while not over():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return over()
            self.now, _, do = heapq.heappop(self._events)
            do()
        return True

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:8.2f} {text}")

    def start(self, index: int, run: str = "run") -> "Supervisor":
        """A new process of the node with this index, beside any that it had before."""
        made = Supervisor(self, index, run)
        self.supervisors.append(made)
        return made

    def cut(self, index: int) -> bool:
        return self.now < self.cut_until.get(index, 0.0)

    def publish(self, attempt: int, nodes: list[int]) -> None:
        """Process 0 of an attempt publishes a checkpoint, unless a newer attempt has begun. Raises Superseded.

        nodes: those that take part.
        """
        if self.volume.attempts.attempt != attempt:
            raise Superseded("a newer attempt has begun")
        if self.volume.publishers and self.volume.publishers[-1] > attempt:
            raise Broken("an older attempt publishes after a newer one")
        if self.volume.finished:
            raise Broken("a finished run publishes again")
        fewest = self.nodes if self.min_nodes is None or self.volume.step < 0 else self.min_nodes
        if nodes[0] != 0 or len(nodes) < fewest:
            raise Broken(f"nodes {nodes} of {self.nodes} make step {self.volume.step + 1}")
        self.volume.publishers.append(attempt)
        self.volume.dealt.append(nodes)
        self.volume.step += 1
        self.volume.finished = self.volume.step + 1 >= self.steps
        for index in set(range(self.nodes)).difference(nodes):
            self.waiting[index] = self.waiting.get(index, 0) + 1 if self._waits(index) else 0
            if self.waiting[index] > LET_IN_WITHIN:
                raise Broken(f"node {index} is back and is not let in")
        for index in nodes:
            self.waiting[index] = 0

    def _waits(self, index: int) -> bool:
        """Whether node 0 must know that a process with this index is there, which takes no part."""
        store, holder = self.stores["node-0"], self.volume.holder
        number = store.content.get("run/rendezvous")
        well = [found for found in self.supervisors if found.alive and not found.paused]
        well = [found for found in well if not self.cut(found.node.index)]
        same = [found for found in well if found.node.index == index and found.facts == store.owner.facts]
        return holder in well and any(f"run/{number}/node/{index}/{found.nonce}" in store.content for found in same)


class Store:
    """Node 0's store, which lives as long as its process."""

    def __init__(self, owner: "Supervisor"):
        self.owner, self.content, self.closed = owner, dict[str, str](), False


class Connection:
    """A process's view of the store. Keys carry the run's name."""

    def __init__(self, store: Store, by: "Supervisor", prefix: str):
        self._store, self._by, self._prefix = store, by, prefix

    def _ask(self, key: str) -> str:
        owner, world = self._store.owner, self._by.world
        reached = owner is self._by or not (world.cut(self._by.node.index) or world.cut(owner.node.index))
        if self._store.closed or not owner.alive or owner.paused or not reached:
            raise DistError("the connection is lost")
        return f"{self._prefix}/{key}"

    def set(self, key: str, value: str) -> None:
        self._store.content[self._ask(key)] = value

    def get(self, key: str) -> bytes:
        return self._store.content[self._ask(key)].encode()

    def check(self, keys: list[str]) -> bool:
        return all(self._ask(key) in self._store.content for key in keys)

    def add(self, key: str, amount: int) -> int:
        place = self._ask(key)
        self._store.content[place] = str(int(self._store.content.get(place, "0")) + amount)
        return int(self._store.content[place])

    def append(self, key: str, value: str) -> None:
        place = self._ask(key)
        self._store.content[place] = self._store.content.get(place, "") + value


class Exchange:
    """What the thread does each second, unless its process is dead or paused."""

    def __init__(self, by: "Supervisor", act: Callable[[], Any]):
        self._by, self._act, self._over = by, act, False
        self.answered = by.world.now
        by.world.after(by.world.between(0, 0.01), self._again)

    def wake(self) -> None:
        self._by.world.after(self._by.world.between(0, 0.01), self._once)

    def end(self) -> None:
        self._over = True

    def _again(self) -> None:
        self._once()
        if not self._over and self._by.alive:
            self._by.world.after(BEAT, self._again)

    def _once(self) -> None:
        if self._over or not self._by.alive or self._by.paused:
            return
        try:
            self._act()
            self.answered = self._by.world.now
        except Exception:
            self.answered, self._over = NEVER, True


class Group:
    """The workers of an attempt on the nodes that take part: each step needs all of them."""

    def __init__(self, world: World, start: Start):
        self.world, self.attempt, self.nodes = world, start.attempt, start.nodes
        self.workers: dict[int, Workers] = {}
        world.after(world.between(*STARTING), self._step)

    def _step(self) -> None:
        there = list(self.workers.values())
        if any(worker.ended for worker in there):
            return
        whole = len(there) == len(self.nodes) and not any(worker.paused for worker in there)
        if not whole or self.world.now < self.world.volume.lost_until:
            self.world.after(1.0, self._step)
            return
        for worker in there:
            worker.training = True
        try:
            self.world.publish(self.attempt, self.nodes)
        except Superseded as error:
            self.workers[0].end(FailureReport.of(error))
            return
        if self.world.volume.finished:
            for worker in there:
                self.world.after(self.world.between(0, 3), partial(worker.end, None))
        elif any(worker.asked for worker in there) or self.workers[0].regrouping:
            stopped = any(worker.asked for worker in there)
            report = FailureReport.of(Stopped("stopped; saved") if stopped else Regrouping("a node is back; saved"))
            for worker in there:
                self.world.after(self.world.between(0, 3), partial(worker.end, report))
        else:
            self.world.after(self.world.between(1, 6), self._step)

    def lose(self, lost: "Workers") -> None:
        """The others notice that one is gone."""
        report = FailureReport(LostPeer.exit_code, "lost another process", follows=True)
        for worker in self.workers.values():
            if worker is not lost and not self.world.volume.finished:
                self.world.after(self.world.between(*RESET), partial(worker.end, report))


class Workers:
    """The workers of a node, which count as one."""

    def __init__(self, by: "Supervisor", start: Start):
        self.by, self.world = by, by.world
        self.ended, self.training, self.asked, self.regrouping = False, False, False, False
        self._end: FailureReport | None = None
        self._noted = False
        key = (start.attempt, start.token)
        self.group = self.world.groups.setdefault(key, Group(self.world, start))
        self.group.workers[by.node.index] = self

    @property
    def paused(self) -> bool:
        return self.by.machine_paused

    def end(self, report: FailureReport | None) -> None:
        if self.paused:
            self.world.after(1.0, lambda: self.end(report))
        elif not self.ended:
            self.ended, self._end = True, report
            if report is not None and report.exit_code != Stopped.exit_code:
                self.group.lose(self)

    def die(self) -> None:
        """A worker is killed, and takes the others of its node with it."""
        self.end(FailureReport(137, f"process was killed at {self.world.now:.2f}"))

    def ask(self) -> None:
        self.asked = True
        if not self.training:
            self.end(FailureReport(Stopped.exit_code, "stopped before the first step"))
            self.group.lose(self)

    def regroup(self, wanted: bool) -> None:
        self.regrouping = wanted

    def over(self) -> bool:
        self._noted = self._noted or self.ended
        return self._noted

    def cause(self) -> FailureReport | None:
        return self._end if self._noted else None

    def kill(self) -> None:
        if not self.ended:
            self.ended, self._end = True, FailureReport(137, "process was killed")
            self.group.lose(self)

    def stacks(self) -> str:
        return ""


class Supervisor:
    """A node's supervisor, and its surroundings."""

    def __init__(self, world: World, index: int, run: str):
        self.world, self.run, self.by_hand = world, run, False
        self.facts: Mapping[str, Any] = {"the hash of the settings": run}
        self.max_wait, self.min_nodes, self.patience = 12 * 3600.0, world.min_nodes, world.patience
        self.node = Node(index, world.nodes, 1, "node-0", 29500, f"gpu-{index}")
        self.nonce = f"{index}-{len(world.supervisors)}"
        self.alive, self.code, self._asked = True, -1, False
        self.running: Workers | None = None
        self._store: Store | None = None
        self._paused_until, self._looked = 0.0, NEVER
        self.machine_paused = False
        self._lock_read, self._begun = world.now, False
        self._program = world.take_part(self)
        world.after(world.between(0, 2), self._go_on)

    # What happens to it

    @property
    def paused(self) -> bool:
        return self.world.now < self._paused_until

    def kill(self) -> None:
        """The pod is gone, without a word."""
        if self.alive:
            self.world.tell(f"{self.nonce} is killed")
            self.alive = False
            if self.running:
                self.running.kill()

    def pause(self, seconds: float, machine: bool) -> None:
        """Nothing of it runs for a while. machine: nor do its workers."""
        self.world.tell(f"{self.nonce} is paused for {seconds:.1f} s")
        self._paused_until, self.machine_paused = self.world.now + seconds, machine
        self.world.after(seconds, self._resumed)

    def _resumed(self) -> None:
        self.machine_paused = self.machine_paused and self.paused

    def ask(self) -> None:
        """SIGTERM."""
        if self.alive and not self._asked:
            self.world.tell(f"{self.nonce} is asked to leave")
            self._asked = True
            if self.running:
                self.running.ask()

    def _go_on(self) -> None:
        if not self.alive:
            return
        if self.paused:
            self.world.after(self._paused_until - self.world.now, self._go_on)
            return
        if self.node.first and not self._begun:
            self.world.volume.holder, self._begun = self, True
        try:
            seconds = next(self._program)
        except StopIteration:
            self._leave(0, "finished")
            return
        except DistrainError as error:
            self._leave(error.exit_code, str(error))
            return
        self.world.after(max(seconds, 0.001) * self.world.between(1, 1.2), self._go_on)

    def _leave(self, code: int, why: str) -> None:
        self.world.tell(f"{self.nonce} leaves with {code}: {why}")
        self.alive, self.code = False, code
        if code == 0 and not self.world.volume.finished:
            raise Broken(f"{self.nonce} leaves with 0 and the run is not finished")
        if code not in (0, 69) and code < 128:
            raise Broken(f"{self.nonce} leaves with {code}: {why}")

    # What it asks of its surroundings

    def now(self) -> float:
        return self.world.now

    def asked(self) -> bool:
        return self._asked

    def say(self, text: str) -> None:
        self.world.tell(f"{self.nonce} says: {text}")

    def warn(self, text: str) -> None:
        self.say(text)

    def time(self) -> float:
        return self.world.now

    def tell_waiting(self, failure: FailureReport, since: float | None) -> None:
        pass

    def connect(self) -> Connection:
        if self.node.first:
            if self._store is not None:
                self._store.closed = True
            self._store = self.world.stores[self.node.address] = Store(self)
        store = self.world.stores.get(self.node.address)
        cut = not self.node.first and (self.world.cut(self.node.index) or self.world.cut(0))
        if store is None or not store.owner.alive or cut:
            raise LostPeer("node 0 does not answer")
        return Connection(store, self, self.run if self.world.named else "")

    def exchange(self, act: Callable[[], Any]) -> Exchange:
        return Exchange(self, act)

    def free_port(self) -> int:
        return 40000

    def check_lock(self) -> None:
        holder = self.world.volume.holder
        if self.node.first and holder is not self and self.world.now > self._lock_read + 5:
            self._lock_read = self.world.now
            if holder is not None:
                raise Superseded(f"the folder was taken over by {holder.nonce}")

    def attempts(self) -> Attempts:
        if self.world.now < self.world.volume.lost_until:
            raise VolumeLost("the volume does not answer")
        return self.world.volume.attempts

    def begin_attempt(self, after: Attempts, nodes: list[int]) -> Attempts:
        found = self.attempts()
        if found.token != after.token:
            raise Superseded("another process has begun an attempt")
        if self.world.now < self.world.volume.full_until:
            raise VolumeLost("the volume is full")
        if self.world.volume.finished:
            raise Broken(f"{self.nonce} begins another attempt at a finished run")
        begun = following(found, self.world.volume.step, self.by_hand, nodes)
        check_budget(begun, max_restarts=100)
        self.world.volume.attempts = begun
        self.world.tell(f"{self.nonce} begins attempt {begun.attempt} with {nodes}")
        return begun

    def end_attempt(self, begun: Attempts, report: FailureReport | None) -> None:
        if self.world.now >= self.world.volume.lost_until and self.world.volume.attempts.token == begun.token:
            self.world.volume.attempts = ended(begun, report, self.world.volume.step)

    def keep_report(self, attempt: int, report: FailureReport, workers: Any) -> None:
        pass

    def holds_run(self) -> bool:
        return self.world.volume.step >= 0

    def check_writable(self) -> None:
        self.attempts()

    def finished(self, lately: bool = False) -> bool:
        if lately and self.world.now - self._looked < 5.0:
            return False
        self._looked = self.world.now
        return self.world.volume.finished and self.world.now >= self.world.volume.lost_until

    @contextmanager
    def workers(self, start: Start) -> Iterator[Workers]:
        self.running = Workers(self, start)
        if self._asked:
            self.running.ask()
        try:
            yield self.running
        finally:
            self.running.kill()
            self.running = None
