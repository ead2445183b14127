"""Logs: each line once and in order, whatever happens to connections, pods and the control plane."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import made
from distrain_k8s.errors import NotFound
from distrain_k8s.kube.client import Api
from distrain_k8s.watch import logs
from distrain_k8s.watch.lines import LogLine, Seen, read_line, shown
from distrain_k8s.watch.logs import Wanted, follow_logs, read_logs
from distrain_k8s.watch.progress import Progress, read_told
from fake_cluster import FakeCluster
from made import ended, pod, pytorchjob, waiting

JOBS = "kubeflow.org/v1/pytorchjobs"


@pytest.fixture
def run(cluster: FakeCluster) -> None:
    """run1 on two nodes, under way."""
    cluster.put(JOBS, pytorchjob())
    cluster.put("pods", pod(), pod(rank=1))
    cluster.log("run1-master-0", "a", "b", "c")
    cluster.log("run1-worker-0", "x", "y")


def end(cluster: FakeCluster, state: str = "Succeeded") -> None:
    """The run ends: its pods, and then its job."""
    for rank, name in enumerate(("run1-master-0", "run1-worker-0")):
        cluster.log(name, end=True)
        cluster.put("pods", pod(rank=rank, state=ended(0), phase="Succeeded"))
    cluster.put(JOBS, pytorchjob(states=(state,)))


class Following:
    """A run that is followed in another thread."""

    def __init__(self, api: Api, wanted: Wanted, said: list[str]) -> None:
        self.lines: list[tuple[int | None, str]] = []
        self.thread = threading.Thread(target=self._run, args=(api, wanted, said), daemon=True)
        self.thread.start()

    def _run(self, api: Api, wanted: Wanted, said: list[str]) -> None:
        for line in follow_logs(api, "run1", wanted, said.append, look=0.05):
            self.lines.append((line.rank, line.text))

    def texts(self, rank: int = 0) -> list[str]:
        return [text for of, text in self.lines if of == rank]

    def until(self, arrived: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not arrived():
            assert time.monotonic() < deadline and self.thread.is_alive(), self.lines
            time.sleep(0.01)

    def ended(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive(), self.lines


@pytest.fixture
def follow(api: Api, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Following]]:
    monkeypatch.setattr(logs, "END_LOOK", 0.05)
    yield lambda **wanted: Following(api, Wanted(**wanted), said)


def test_logs_that_are_there_come_node_by_node(run: None, api: Api, said: list[str]) -> None:
    def found(**wanted: object) -> list[tuple[int | None, str]]:
        return [(line.rank, line.text) for line in read_logs(api, "run1", Wanted(**wanted), said.append)]  # type: ignore[arg-type]

    assert found() == [(0, "a"), (0, "b"), (0, "c"), (1, "x"), (1, "y")]
    assert found(nodes=(1,)) == [(1, "x"), (1, "y")]
    assert found(tail=1) == [(0, "c"), (1, "y")]
    with pytest.raises(NotFound, match="run1 has no node 2; its nodes are 0 to 1"):
        found(nodes=(2,))
    assert said == []


def test_a_run_without_logs_says_what_it_waits_for(cluster: FakeCluster, api: Api, said: list[str]) -> None:
    cluster.put(JOBS, pytorchjob(nodes=1))
    cluster.put("pods", pod(state=waiting("ErrImagePull", "rpc error: x:1: not found"), phase="Pending"))
    assert list(read_logs(api, "run1", Wanted(), said.append)) == []
    assert said == [
        f"run1 is Pending and has no logs: node 0 waits for the image {made.IMAGE}, which its registry does not have"
    ]


def test_a_run_is_followed_to_its_end(run: None, cluster: FakeCluster, follow: Callable[..., Following]) -> None:
    following = follow()
    following.until(lambda: len(following.lines) == 5)
    cluster.log("run1-master-0", "d")
    cluster.log("run1-worker-0", "z")
    following.until(lambda: len(following.lines) == 7)
    end(cluster)
    following.ended()
    assert following.texts(0) == ["a", "b", "c", "d"]
    assert following.texts(1) == ["x", "y", "z"]


def test_pods_that_are_pending_are_waited_for(
    cluster: FakeCluster, follow: Callable[..., Following], said: list[str]
) -> None:
    cluster.put(JOBS, pytorchjob(nodes=1))
    cluster.put("pods", pod(unscheduled="0/1 nodes are available: 1 Insufficient cpu."))
    following = follow()
    following.until(lambda: bool(said))
    assert said == ["run1 is Pending: no node has room for node 0: 1 node without enough cpu"]
    cluster.log("run1-master-0", "at last")
    cluster.put("pods", pod())
    following.until(lambda: following.texts() == ["at last"])
    cluster.log("run1-master-0", end=True)
    cluster.put("pods", pod(state=ended(0), phase="Succeeded"))
    cluster.put(JOBS, pytorchjob(nodes=1, states=("Succeeded",)))
    following.ended()
    assert len(said) == 1


def test_a_pod_that_is_made_anew_is_followed(
    run: None, cluster: FakeCluster, follow: Callable[..., Following], said: list[str]
) -> None:
    following = follow()
    following.until(lambda: len(following.lines) == 5)
    cluster.log("run1-worker-0", "killed", end=True)
    cluster.put("pods", pod(rank=1, state=ended(137), phase="Failed"))
    following.until(lambda: "killed" in following.texts(1))
    cluster.logs["run1-worker-0"].lines.clear()
    cluster.log("run1-worker-0", "resumes")
    cluster.put("pods", pod(rank=1, uid="second", age=1, node="worker-2"))
    following.until(lambda: "resumes" in following.texts(1))
    end(cluster)
    following.ended()
    assert following.texts(1) == ["x", "y", "killed", "resumes"]
    assert "node 1 has a new pod, on worker-2" in said


def test_a_pod_that_is_made_anew_while_the_old_one_leaves_is_followed_once(
    run: None, cluster: FakeCluster, follow: Callable[..., Following]
) -> None:
    following = follow()
    following.until(lambda: len(following.lines) == 5)
    log = cluster.logs["run1-worker-0"]
    last = log.lines[-1][0]
    cluster.log("run1-worker-0", end=True)  # its container has ended, and the pod is still there
    time.sleep(1)
    log.lines[:] = [(last + timedelta(seconds=60), "resumes")]
    log.open = True
    cluster.put("pods", pod(rank=1, uid="second", age=1, node="worker-2"))
    following.until(lambda: "resumes" in following.texts(1))
    time.sleep(1.5)  # in which the one that reads the old pod's log would connect again
    end(cluster)
    following.ended()
    assert following.texts(1) == ["x", "y", "resumes"]


@pytest.mark.parametrize("fault", ["reset", "cut", "half-open"])
def test_a_lost_connection_costs_no_line_and_repeats_none(
    run: None,
    cluster: FakeCluster,
    follow: Callable[..., Following],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(logs, "SILENCE", 0.3)
    for after in (1, 3, 2):
        cluster.inject(fault, "master-0/log", after=after)
    cluster.inject(500, "master-0/log", times=2)
    following = follow(nodes=(0,))
    for number in range(20):
        cluster.log("run1-master-0", f"line {number}")
        time.sleep(0.02)
    following.until(lambda: len(following.lines) == 23)
    end(cluster)
    following.ended()
    assert following.texts() == ["a", "b", "c", *(f"line {number}" for number in range(20))]
    assert said == []


def test_lines_that_are_gone_are_announced_with_where_they_still_are(
    run: None, cluster: FakeCluster, follow: Callable[..., Following], said: list[str]
) -> None:
    cluster.inject("reset", "master-0/log", after=3)
    log = cluster.logs["run1-master-0"]
    cluster.inject(503, "master-0/log", times=3, retry_after="0.3")
    following = follow(nodes=(0,))
    following.until(lambda: len(following.lines) == 3)
    cluster.log("run1-master-0", "lost")
    following.until(lambda: sum("master-0/log" in path for _, path in cluster.requests) > 1)
    with cluster.changed:  # kubelet has rotated the file away
        log.lines[:] = [(log.lines[-1][0] + timedelta(seconds=90), "later")]
    following.until(lambda: "later" in following.texts())
    end(cluster)
    following.ended()
    [told] = said
    assert told.startswith("lines of node 0 are missing here")
    assert told.endswith("distrain logs run1 --previous --node 0")


def test_a_control_plane_that_restarts_is_waited_for(
    run: None, cluster: FakeCluster, follow: Callable[..., Following]
) -> None:
    following = follow()
    following.until(lambda: len(following.lines) == 5)
    cluster.inject("reset", "", times=8)
    cluster.log("run1-master-0", "d")
    following.until(lambda: "d" in following.texts())
    end(cluster)
    following.ended()
    assert following.texts() == ["a", "b", "c", "d"]


def test_a_run_that_is_removed_ends_its_logs(
    run: None, cluster: FakeCluster, follow: Callable[..., Following], said: list[str]
) -> None:
    following = follow()
    following.until(lambda: len(following.lines) == 5)
    cluster.remove(JOBS, "run1")
    following.ended()
    assert said == ["run1 was removed"]


# Lines

MOMENT = st.integers(0, 6).map(lambda n: n * 400_000_000)


@given(
    gaps=st.lists(MOMENT, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_any_lines_over_any_connections_are_passed_once_and_in_order(gaps: list[int], cuts: list[int]) -> None:
    """Also several lines of one and the same time."""
    start = 1_767_225_600 * 10**9
    times = [start + sum(gaps[: n + 1]) for n in range(len(gaps))]
    lines = [LogLine(f"line {n}", when) for n, when in enumerate(times)]
    seen, passed = Seen(), []
    for cut in [*cuts, len(lines) * 2]:
        seen.connected()
        since = datetime.fromisoformat(seen.since).timestamp() * 1e9 if seen.since else 0
        for line in [line for line in lines if (line.nanoseconds or 0) >= since][:cut]:
            assert not seen.is_gap(line)
            if seen.is_new(line):
                passed.append(line)
    assert passed == lines


@given(text=st.text(st.characters(blacklist_characters="\n\r\x1b", blacklist_categories=("Cs", "Cc"))))
def test_a_line_is_what_stands_behind_its_time(text: str) -> None:
    line = read_line(f"2026-01-31T12:00:01.123456789Z {text}")
    assert line.text == text
    assert line.nanoseconds == 1_769_860_801_123_456_789
    assert line.time == datetime(2026, 1, 31, 12, 0, 1, 123456, UTC)
    assert read_line(text).text == text or text[:4].isdigit()


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (" 10%|#   | 1/10\r 20%|##  | 2/10\r100%|####| 10/10", "100%|####| 10/10"),
        ("50%\r100%\r", "100%"),
        ("\x1b[2K\x1b[1Gdone", "done"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("tab\tand ünïcode ✓", "tab\tand ünïcode ✓"),
    ],
)
def test_a_progress_bar_is_its_last_state(raw: str, plain: str) -> None:
    assert shown(raw, colours=False) == plain


def test_colours_are_kept_on_a_terminal() -> None:
    assert shown("\x1b[2K\x1b[31mred\x1b[0m", colours=True) == "\x1b[31mred\x1b[0m"


# Progress


def step(number: int, second: float, **more: object) -> str:
    line = {"step": number, "epoch": number / 100, "loss": 1 / number, "tokens_per_second": 1234.5, "steps": 100} | more
    when = made.NOW + timedelta(seconds=second)
    return f"{when:%Y-%m-%dT%H:%M:%S.%f}000Z {json.dumps(line)}"


def read_progress(lines: Iterable[str], of_nodes: int | None = None) -> Progress | None:
    return read_told(lines, of_nodes).progress


def test_progress_is_read_from_the_end_of_a_log() -> None:
    log = ["2026-03-01T12:00:00Z results go to out", step(10, 0), "no {json", '{"step": 3}', step(20, 5), step(30, 10)]
    found = read_progress(log)
    assert found and (found.step, found.steps, found.loss, found.seconds_left) == (30, 100, 1 / 30, 35.0)
    assert found.sentence == "step 30 of 100, epoch 0.30, loss 0.0333, 1.23k tokens/s, 35s left"


def test_progress_says_how_many_nodes_take_part_where_not_all_do() -> None:
    line = json.dumps({"step": 5, "loss": 0.5, "nodes": 2, "steps": 9})
    found = read_progress([line], of_nodes=3)
    assert found and found.sentence == "step 5 of 9, loss 0.5000, on 2 of 3 nodes"
    whole = read_progress([line], of_nodes=2)
    assert whole and whole.sentence == "step 5 of 9, loss 0.5000"


def test_progress_of_a_run_that_went_back_to_a_checkpoint_is_that_after_it() -> None:
    found = read_progress([step(10, 0), step(80, 7), step(50, 100), step(60, 110)])
    assert found and (found.step, found.seconds_left) == (60, 40.0)


def test_a_log_without_a_step_has_no_progress_and_an_old_trainer_no_time_left() -> None:
    assert read_progress(["", "nothing", '{"event": "start"}']) is None
    found = read_progress(['{"step": 5, "loss": null}'])
    assert found and (found.step, found.steps, found.loss, found.seconds_left) == (5, None, None, None)


def waits(message: str, since: str = "2026-03-01T11:00:00+00:00") -> str:
    return "2026-03-01T12:00:00Z " + json.dumps({"event": "waiting", "message": message, "since": since})


def test_a_log_tells_what_the_run_waits_for_until_it_goes_on() -> None:
    found = read_told([step(10, 0), waits("the Hub answered 503"), "no {json", waits("the Hub answered 502")])
    assert found.progress and found.progress.step == 10
    assert found.waiting and found.waiting.sentence == "since 2026-03-01 11:00 UTC: the Hub answered 502"
    assert read_told([waits("the Hub answered 503"), '{"step": 8, "event": "resume"}']).waiting is None
    assert read_told(['{"event": "waiting"}', waits("x", since="yesterday")]).waiting is None
    secret = read_told([waits("https://eve:secret-word@host answered 503")]).waiting
    assert secret and "secret-word" not in secret.message


@given(
    steps=st.lists(st.integers(1, 100), min_size=1, max_size=30, unique=True).map(sorted), seconds=st.integers(1, 60)
)
def test_time_left_is_never_negative_and_falls_with_each_step(steps: list[int], seconds: int) -> None:
    lines = [step(number, number * seconds) for number in steps]
    left = [read_progress(lines[: n + 1]) for n in range(1, len(lines))]
    for before, after in pairwise(left):
        assert before and after and before.seconds_left is not None and after.seconds_left is not None
        assert 0 <= after.seconds_left < before.seconds_left
