"""The logs of a run's pods: once, or for as long as the run lives.

Each pod that is followed has a thread of its own, which connects again whenever its connection breaks. Another look at
the run every few seconds finds pods that were replaced, and the end.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.errors import ConnectionLost, NotFound, Rejected
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import Pod, read_pod
from distrain_k8s.kube.resources import PODS
from distrain_k8s.runs.find import observe
from distrain_k8s.runs.status import Phase, Run, status_of
from distrain_k8s.watch.lines import LogLine, Seen, read_line

LOOK = 2.0
"""Seconds between two looks at the run."""
END_LOOK = 0.2
"""The same, when the run has ended and its last lines are waited for."""
SILENCE = 60.0
"""Seconds without a line after which a connection is made anew: it may be half open."""
PATIENCE = 900.0
"""Seconds that a control plane may be away while a run is followed."""
DRAIN = 10.0
"""Seconds that the logs of a run that has ended may take to come to their ends."""
MOST_FOLLOWED = 64
AT_ONCE = 8
Say = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """A line of a run. rank: of the node that wrote it. pod: its name there."""

    rank: int | None
    pod: str
    text: str
    time: datetime | None


@dataclass(frozen=True)
class Wanted:
    """Which lines. nodes: ranks, empty for all. since: not before this time. tail: the last lines of each pod, None for
    all."""

    nodes: tuple[int, ...] = ()
    since: datetime | None = None
    tail: int | None = None

    def takes(self, pod: Pod) -> bool:
        """Whether lines of this pod are wanted."""
        return not self.nodes or pod.rank in self.nodes

    @property
    def query(self) -> dict[str, Any]:
        """For the first connection to a pod."""
        since = self.since.isoformat().replace("+00:00", "Z") if self.since else None
        return {"timestamps": True, "sinceTime": since, "tailLines": self.tail}


def read_logs(api: Api, name: str, wanted: Wanted, say: Say, namespace: str | None = None) -> Iterator[Line]:
    """The lines that are there now, node by node. Raises NotFound where there is no such run."""
    seen = observe(api, name, namespace)
    pods = _wanted_pods(seen, wanted)

    def lines_of(pod: Pod) -> list[Line]:
        try:
            with api.stream(PODS, pod.name, "log", _query(pod, wanted), api.patience.read, pod.namespace) as lines:
                return [_line(pod, read_line(line.decode(errors="replace"))) for line in lines]
        except (NotFound, Rejected):
            return []

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lines_of, pods))
    if not any(found):
        say(silence(status_of(seen)))
    for lines in found:
        yield from lines


def follow_logs(
    api: Api, name: str, wanted: Wanted, say: Say, namespace: str | None = None, look: float = LOOK
) -> Iterator[Line]:
    """Lines as they are written, until the run has ended and all are told.

    Waits for pods that are pending, follows those that are made anew, and goes on where a connection was lost. say:
    told what a person should know meanwhile: what the run waits for, a pod that was replaced, lines that are missing.
    Raises NotFound where there is no such run.
    """
    with closing(_Follower(api.patient(PATIENCE), name, wanted, say, namespace)) as follower:
        yield from follower.lines(look)


def silence(run: Run) -> str:
    """Why a run has no logs."""
    reason = f": {run.cause.sentence}" if run.cause else ""
    return f"{run.name} is {run.shown_phase} and has no logs{reason}"


@dataclass
class _Followed:
    """A pod that is followed. over: its log has come to its end."""

    pod: Pod
    thread: threading.Thread
    over: threading.Event = field(default_factory=threading.Event)


class _Follower:
    def __init__(self, api: Api, name: str, wanted: Wanted, say: Say, namespace: str | None) -> None:
        self._api, self._name, self._wanted, self._say, self._namespace = api, name, wanted, say, namespace
        self._queue: queue.Queue[Line] = queue.Queue(maxsize=10_000)
        self._followed: dict[str, _Followed] = {}
        self._stop = threading.Event()
        self._told = ""

    def close(self) -> None:
        self._stop.set()

    def lines(self, look: float) -> Iterator[Line]:
        ended_at: float | None = None
        uid = ""
        while True:
            try:
                seen = observe(self._api, self._name, self._namespace)
            except NotFound:
                if not uid:
                    raise
                self._say(f"{self._name} was removed")
                return
            uid = uid or seen.job.uid
            run = status_of(seen)
            self._take(_wanted_pods(seen, self._wanted))
            self._tell_of_waiting(run)
            yield from self._arrived(END_LOOK if run.phase.is_end else look)
            if not run.phase.is_end or seen.job.uid != uid:
                uid, ended_at = seen.job.uid, None
                continue
            ended_at = ended_at or time.monotonic()
            if all(entry.over.is_set() for entry in self._followed.values()) or time.monotonic() - ended_at > DRAIN:
                yield from self._arrived(0)
                return

    def _take(self, pods: Sequence[Pod]) -> None:
        """Follows the pods that have started and are not followed yet."""
        running = sum(not entry.over.is_set() for entry in self._followed.values())
        for pod in pods:
            if pod.uid in self._followed or pod.main is None or (pod.main.state == "waiting" and not pod.main.restarts):
                continue
            if running >= MOST_FOLLOWED:
                self._once(f"follows {MOST_FOLLOWED} of {len(pods)} pods; choose others by --node")
                return
            former = [entry.pod for entry in self._followed.values() if entry.pod.name == pod.name]
            if former and pod.rank is not None:
                self._say(f"node {pod.rank} has a new pod, on {pod.node}")
            entry = _Followed(pod, threading.Thread(target=self._read, args=(pod, bool(former)), daemon=True))
            self._followed[pod.uid] = entry
            entry.thread.start()
            running += 1

    def _read(self, pod: Pod, replaced: bool) -> None:
        """One pod's log, over as many connections as it takes."""
        seen, broken, again = Seen(), False, False
        query = {"timestamps": True} if replaced else _query(pod, self._wanted)
        try:
            while not self._stop.is_set():
                seen.connected()
                asked = query | ({"sinceTime": seen.since, "tailLines": None} if seen.since else {})
                try:
                    with self._api.stream(
                        PODS, pod.name, "log", {**asked, "follow": True}, SILENCE, pod.namespace
                    ) as lines:
                        if again and self._is_another(pod):  # of the same name, which is followed by itself
                            return
                        again = True
                        for raw in lines:
                            self._pass_on(pod, seen, read_line(raw.decode(errors="replace")))
                            if self._stop.is_set():
                                return
                except ConnectionLost:
                    broken = True
                    continue
                except Rejected:
                    again = True
                    self._stop.wait(1.0)  # its container is about to start
                    continue
                except NotFound:
                    if broken:
                        self._say(self._missing(pod, "after the connection was lost, its pod was removed"))
                    return
                if self._is_over(pod):
                    return
                self._stop.wait(0.5)
        except Exception as error:
            self._say(f"the log of {pod.name} cannot be read: {error}")
        finally:
            self._followed[pod.uid].over.set()

    def _pass_on(self, pod: Pod, seen: Seen, line: LogLine) -> None:
        if seen.is_gap(line):
            self._say(self._missing(pod, "its machine has thrown away the lines in between"))
        if seen.is_new(line):
            while not self._stop.is_set():
                with suppress(queue.Full):
                    self._queue.put(_line(pod, line), timeout=0.5)
                    break

    def _is_over(self, pod: Pod) -> bool:
        """Whether no line will follow: the pod has ended, or is another by now."""
        try:
            now = read_pod(self._api.get(PODS, pod.name, pod.namespace))
        except NotFound:
            return True
        return now.uid != pod.uid or now.phase in ("Succeeded", "Failed")

    def _is_another(self, pod: Pod) -> bool:
        """Whether the name is that of another pod by now."""
        try:
            return read_pod(self._api.get(PODS, pod.name, pod.namespace)).uid != pod.uid
        except NotFound:
            return True

    def _missing(self, pod: Pod, why: str) -> str:
        who = pod.name if pod.rank is None else f"node {pod.rank}"
        option = "" if pod.rank is None else f" --node {pod.rank}"
        return (
            f"lines of {who} are missing here: {why}; the run's files have them: distrain logs {self._name} "
            f"--previous{option}"
        )

    def _arrived(self, seconds: float) -> Iterator[Line]:
        """What comes within this time; what is there already, where it is 0."""
        until = time.monotonic() + seconds
        while True:
            try:
                left = until - time.monotonic()
                yield self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                return

    def _tell_of_waiting(self, run: Run) -> None:
        if run.phase in (Phase.PENDING, Phase.QUEUED, Phase.STARTING, Phase.RESTARTING):
            self._once(f"{run.name} is {run.shown_phase}" + (f": {run.cause.sentence}" if run.cause else ""))

    def _once(self, sentence: str) -> None:
        if sentence != self._told:
            self._told = sentence
            self._say(sentence)


def _wanted_pods(seen: Evidence, wanted: Wanted) -> list[Pod]:
    """The pods whose lines are wanted: the current one of each node, or all where they have no rank."""
    pods = list(seen.current.values()) or sorted(seen.pods, key=lambda pod: pod.name)
    if wanted.nodes and (outside := [node for node in wanted.nodes if node >= seen.job.nodes]):
        last = seen.job.nodes - 1
        raise NotFound(f"{seen.job.name} has no node {outside[0]}; its nodes are 0 to {last}", "node", str(outside[0]))
    return [pod for pod in pods if wanted.takes(pod)]


def _query(pod: Pod, wanted: Wanted) -> dict[str, Any]:
    return wanted.query | {"container": pod.trainer}


def _line(pod: Pod, line: LogLine) -> Line:
    return Line(pod.rank, pod.name, line.text, line.time)
