"""list, status, wait and events as a person types them, against an API server that serves and fails."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import made
from distrain_k8s import Client
from distrain_k8s.cli import main
from distrain_k8s.interrupts import interruptible
from distrain_k8s.kube.client import Api, Patience
from distrain_k8s.runs.wait import wait_for
from fake_cluster import FakeCluster
from made import ended, event, pod, pytorchjob, runtime, trainjob, waiting, workload

JOBS, TRAINJOBS = "kubeflow.org/v1/pytorchjobs", "trainer.kubeflow.org/v1alpha1/trainjobs"
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], api: Api) -> Typed:
    """`distrain ARGUMENTS`: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--kubeconfig", str(tmp_path / "kubeconfig")])
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return run


def progress_line(step: int) -> str:
    return json.dumps({"step": step, "epoch": 0.5, "loss": 0.25, "tokens_per_second": 1680.0, "steps": 429})


@pytest.fixture
def runs(cluster: FakeCluster) -> None:
    """Four runs: one under way, one that waits for an image, one of Trainer v2, and one that is not ours."""
    cluster.put(JOBS, pytorchjob("good", gpus=8), pytorchjob("stuck", nodes=1), pytorchjob("other", helm=False))
    cluster.put(TRAINJOBS, trainjob("v2"))
    cluster.served.add("trainer.kubeflow.org/v1alpha1/trainingruntimes")
    cluster.put("trainer.kubeflow.org/v1alpha1/trainingruntimes", runtime("v2", gpus=4))
    cluster.put("pods", pod("good"), pod("good", rank=1), pod("v2", kind="TrainJob"), pod("v2", 1, kind="TrainJob"))
    cluster.put("pods", pod("stuck", state=waiting("ErrImagePull", "rpc error: x: not found"), phase="Pending"))
    cluster.put("pods", pod("other", helm=False), pod("other", rank=1, helm=False))
    cluster.log("good-master-0", "starting", progress_line(10), progress_line(20))


def test_list_shows_the_runs_of_both_operators_and_what_holds_them_up(runs: None, typed: Typed) -> None:
    code, out, err = typed("list")
    assert (code, err) == (0, "")
    assert all(line == line.rstrip() for line in out.splitlines())
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert set(rows) == {"good", "stuck", "v2"}
    assert re.match(r"good +Running +\S+ +2/2 +16$", rows["good"])
    assert re.match(r"v2 +Running +\S+ +2/2 +8$", rows["v2"])
    assert rows["stuck"].endswith(f"node 0 waits for the image {made.IMAGE}, which its registry does not have")
    assert "other" in typed("list", "--all")[1]
    assert "TrainJob" in typed("list", "-o", "wide")[1]


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data_is_one_document_on_stdout_and_nothing_else(
    runs: None, typed: Typed, form: str, read: Callable[[str], Any]
) -> None:
    found = {run["name"]: run for run in read(typed("list", "--progress", "-o", form)[1])}
    assert found["good"]["phase"] == "Running" and found["good"]["progress"]["step"] == 20
    assert found["stuck"]["cause"]["name"] == "wrong image tag" and found["stuck"]["progress"] is None
    one = read(typed("status", "good", "-o", form)[1])
    assert one["gpus"] == 16 and one["pods"][1] == {
        "node": 1,
        "name": "good-worker-0",
        "state": "Running",
        "machine": "worker-1",
    }
    assert read(typed("events", "good", "-o", form)[1]) == {"cause": None, "events": []}


def test_an_empty_list_is_an_empty_document_and_a_sentence_for_people(cluster: FakeCluster, typed: Typed) -> None:
    assert typed("list", "-o", "json") == (0, "[]\n", "")
    code, out, err = typed("list")
    assert (code, out) == (0, "")
    assert err == "there are no runs in the namespace team; --all also shows jobs that are not distrain's\n"


def test_status_says_phase_cause_mend_and_progress(runs: None, typed: Typed) -> None:
    code, out, _ = typed("status", "good")
    assert code == 0
    assert "good  Running  PyTorchJob in team, 2 of 2 nodes, 16 GPUs" in out
    assert "progress  step 20 of 429, epoch 0.50, loss 0.2500, 1.68k tokens/s" in out
    out = typed("status", "stuck")[1]
    assert "mend      distrain resume stuck -n team --set image.tag=TAG" in out


def test_status_says_what_a_run_waits_for_and_since_when(runs: None, cluster: FakeCluster, typed: Typed) -> None:
    message = "output_dir /out cannot be written: No space left on device; make room, and the run goes on"
    waits = {"event": "waiting", "message": message, "since": "2026-03-01T11:58:00+00:00"}
    cluster.log("good-master-0", progress_line(20), f"distrain: {message}; starting again", json.dumps(waits))
    out = " ".join(typed("status", "good")[1].split())
    assert "good Running" in out and "progress step 20 of 429" in out
    assert f"waiting since 2026-03-01 11:58 UTC: {message}" in out
    data = json.loads(typed("status", "good", "-o", "json")[1])
    assert data["waiting"] == {"message": message, "since": "2026-03-01T11:58:00Z"} and data["cause"] is None
    assert "waiting since 2026-03-01 11:58 UTC" in typed("list", "--progress")[1]
    cluster.log("good-master-0", progress_line(20), json.dumps(waits), '{"step": 20, "event": "resume"}')
    assert "waiting" not in typed("status", "good")[1]
    assert json.loads(typed("status", "good", "-o", "json")[1])["waiting"] is None


def test_a_name_that_is_not_there_is_told_with_the_nearest(runs: None, typed: Typed) -> None:
    for command in ("status", "logs", "wait", "events"):
        code, out, err = typed(command, "god")
        assert (code, out) == (102, "")
        assert err == "distrain: there is no run god in the namespace team; did you mean good?\n" or command == "wait"
        assert "did you mean good?" in err


def test_a_cluster_without_operators_says_what_is_missing(cluster: FakeCluster, typed: Typed) -> None:
    cluster.served.clear()
    for command in (("list",), ("status", "run1")):
        code, _, err = typed(*command)
        assert code == 104
        assert "pytorchjobs.kubeflow.org; Kubeflow's training operator is not installed there" in err


def test_one_operator_is_enough(runs: None, cluster: FakeCluster, typed: Typed) -> None:
    cluster.served.discard(TRAINJOBS)
    assert "good" in typed("list")[1]
    cluster.served.add(TRAINJOBS)
    cluster.served.discard(JOBS)
    assert "v2" in typed("list")[1]


def test_what_a_viewer_may_not_see_is_done_without(runs: None, cluster: FakeCluster, typed: Typed) -> None:
    for path in ("/events", "/trainingruntimes", "/configmaps"):
        message = f'User "eve" cannot list resource "{path[1:]}" in API group "" in the namespace "team"'
        cluster.inject(403, path, times=100, message=message)
    assert typed("list")[0] == 0
    cluster.inject(
        403, "/pods", message='User "eve" cannot list resource "pods" in API group "" in the namespace "team"'
    )
    code, _, err = typed("list")
    assert code == 104 and "eve may not list pods in the namespace team" in err


def test_the_number_of_requests_does_not_grow_with_runs_or_pods(
    runs: None, cluster: FakeCluster, api: Api, typed: Typed
) -> None:
    """Two kinds of job, their pods, and what explains those that are stuck; one run: its job, pods, and log."""
    cluster.requests.clear()
    typed("list")
    assert len(cluster.requests) <= 5, cluster.requests
    cluster.put(JOBS, *(pytorchjob(f"more-{n}") for n in range(30)))
    cluster.put("pods", *(pod(f"more-{n}", rank) for n in range(30) for rank in (0, 1)))
    cluster.requests.clear()
    typed("list")
    assert len(cluster.requests) <= 5, cluster.requests
    cluster.requests.clear()
    typed("status", "good")
    assert len(cluster.requests) == 3, cluster.requests
    cluster.requests.clear()
    typed("status", "stuck")
    assert len(cluster.requests) <= 4, cluster.requests
    assert not any("secrets" in path for _, path in cluster.requests)


def test_a_queued_run_tells_what_kueue_says(cluster: FakeCluster, typed: Typed) -> None:
    cluster.served.add("kueue.x-k8s.io/v1beta1/workloads")
    cluster.put(JOBS, pytorchjob(states=("Created", "Suspended"), suspend=True, queue="queue"))
    cluster.put("kueue.x-k8s.io/v1beta1/workloads", workload(message="insufficient unused quota for nvidia.com/gpu"))
    out = typed("list")[1]
    assert "Queued" in out and "it waits in the queue queue: insufficient unused quota" in out


def test_no_token_is_ever_printed(runs: None, cluster: FakeCluster, tmp_path: Path, typed: Typed) -> None:
    cluster.tokens = {"very-secret"}
    cluster.kubeconfig(tmp_path, token="very-secret")
    for command in (("list",), ("status", "good"), ("logs", "good"), ("events", "good"), ("list", "-o", "json")):
        assert "very-secret" not in "".join(map(str, typed(*command)))
    cluster.tokens = {"another"}
    assert "very-secret" not in "".join(map(str, typed("list")))


# wait


@pytest.mark.parametrize(
    ("states", "container", "code", "sentence"),
    [
        (("Succeeded",), ended(0), 0, "run1 has succeeded after 9m50s"),
        (("Failed",), ended(65, "no text column"), 100, "the data cannot be used: no text column"),
    ],
)
def test_wait_leaves_with_the_runs_end_and_its_reason(
    cluster: FakeCluster, typed: Typed, states: tuple[str, ...], container: Any, code: int, sentence: str
) -> None:
    cluster.put(JOBS, pytorchjob(nodes=1, states=states))
    cluster.put("pods", pod(state=container, phase=states[0]))
    assert typed("wait", "run1")[0] == code
    assert sentence in typed("wait", "run1")[2]


def test_wait_leaves_with_102_without_a_run_and_with_103_when_it_is_stopped(cluster: FakeCluster, typed: Typed) -> None:
    assert typed("wait", "run1")[0] == 102
    cluster.put(JOBS, pytorchjob(states=("Created", "Suspended"), suspend=True))
    assert "next      distrain resume run1 -n team" in typed("status", "run1")[1]
    code, out, err = typed("wait", "run1")
    assert (code, out) == (103, "")
    assert err == "run1 is stopped; distrain resume run1 -n team continues it\n"


def test_wait_gives_up_in_time_and_says_what_it_waits_for(runs: None, typed: Typed) -> None:
    code, _, err = typed("wait", "stuck", "--timeout", "0.2s")
    assert code == 101
    assert "stuck has not ended in 0s; stuck is Pending: node 0 waits for the image" in err
    code, _, err = typed("wait", "good", "--timeout", "soon")
    assert code == 64 and "--timeout is soon, which is not a time" in err


def test_wait_gives_up_where_nothing_moves_but_not_while_steps_are_made(runs: None, api: Api) -> None:
    outcome = wait_for(api, "good", stall=0.2, look=0.01)
    assert outcome.code == 101 and "good has made no progress for 0s" in outcome.sentence
    steps = iter(range(10_000))
    outcome = wait_for(api, "good", timeout=0.6, stall=0.3, look=0.01, progress=lambda run: next(steps))
    assert outcome.code == 101 and "has not ended" in outcome.sentence


def test_wait_outlives_a_control_plane_that_restarts(runs: None, cluster: FakeCluster, api: Api) -> None:
    outcomes = []
    waiter = threading.Thread(target=lambda: outcomes.append(wait_for(api, "good", look=0.01)), daemon=True)
    waiter.start()
    for fault in ("reset", 503, 500, "cut", 429):
        cluster.inject(fault, "")
    time.sleep(0.3)
    cluster.put(JOBS, pytorchjob("good", states=("Succeeded",)))
    waiter.join(10)
    assert [outcome.code for outcome in outcomes] == [0]


def test_wait_tells_each_change_once_and_a_removed_run_ends_it(runs: None, cluster: FakeCluster, api: Api) -> None:
    told: list[str] = []

    def say(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 1:
            cluster.put("pods", pod("good", rank=1, state=ended(138, "lost node 0"), phase="Failed"))
        else:
            cluster.remove(JOBS, "good")

    outcome = wait_for(api, "good", look=0.01, say=say)
    assert (outcome.code, outcome.sentence) == (103, "good was removed")
    assert told[0] == "good is Running, 2 of 2 nodes"
    assert told[1].startswith("good is Restarting 1: node 1 ended: lost node 0")


# Ctrl-C and the terminal


def typed_on_terminal(tmp_path: Path, columns: int, *arguments: str, **environment: str) -> str:
    """What a terminal of that width receives."""
    command = [sys.executable, "-m", "distrain_k8s.cli", *arguments, "--kubeconfig", str(tmp_path / "kubeconfig")]
    master, slave = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen(
        command,
        stdout=slave,
        stderr=slave,
        stdin=slave,
        env=variables | {"COLUMNS": str(columns), "TERM": "xterm-256color"} | environment,
    ):
        os.close(slave)
        received = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            received += piece
    os.close(master)
    return received.decode()


@pytest.mark.parametrize("columns", [80, 160])
def test_no_line_is_wider_than_the_terminal(
    runs: None, cluster: FakeCluster, api: Api, tmp_path: Path, columns: int
) -> None:
    for command in (("list", "--progress"), ("status", "stuck")):
        text = typed_on_terminal(tmp_path, columns, *command)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert "\x1b[" in text and "Pending" in plain
        assert max(len(line) for line in plain.splitlines()) <= columns
    assert "\x1b[3" not in typed_on_terminal(tmp_path, columns, "list", NO_COLOR="1")
    doctor = re.sub(r"\x1b\[[0-9;]*m", "", typed_on_terminal(tmp_path, columns, "doctor")).splitlines()
    assert re.match(r"STATE +ABOUT +FOUND +MEND", doctor[0])
    assert max(map(len, doctor)) <= columns


def test_a_narrow_terminal_cuts_nothing_off(runs: None, cluster: FakeCluster, api: Api, tmp_path: Path) -> None:
    why = "0/3 nodes are available: 3 Insufficient cpu"
    cluster.put("events", event("FailedScheduling", why, about="good-master-0", kind="Pod"))

    def plain(columns: int, command: str) -> list[str]:
        return re.sub(r"\x1b\[[0-9;]*m", "", typed_on_terminal(tmp_path, columns, command, "good")).splitlines()

    status, events, wide = plain(40, "status"), plain(50, "events"), plain(160, "events")
    assert max(map(len, status)) <= 40 and max(map(len, events)) <= 50
    assert "NODE  POD" in "".join(status) and "…" not in "".join(status)
    row, *text = events[:3]
    assert re.match(r"\S+  1  Pod/good-master-0  FailedScheduling$", row)
    assert " ".join(line.strip() for line in text).startswith(why)
    assert wide[1].endswith(f"FailedScheduling  {why}")


def test_ctrl_c_leaves_the_run_alone_and_says_so(runs: None, cluster: FakeCluster, api: Api, tmp_path: Path) -> None:
    for command in (("wait", "good"), ("logs", "-f", "good"), ("status", "-w", "good")):
        before = len(cluster.requests)
        process = subprocess.Popen(
            [sys.executable, "-m", "distrain_k8s.cli", *command, "--kubeconfig", str(tmp_path / "kubeconfig")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 20
        while len(cluster.requests) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        # Python ends by the signal itself where it came within an exec, such as a new dataclass: 130 in a shell.
        assert process.returncode in (130, -signal.SIGINT), (command, err)
        assert err.splitlines()[-1] == "good goes on; distrain status good -n team shows it"
    assert {method for method, _ in cluster.requests} == {"GET"}


def test_ctrl_c_is_heard_where_a_library_drops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distrain_k8s.interrupts.AGAIN", 0.1)
    dropped = False
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        except:  # noqa: E722 - as websocket-client closes a connection
            dropped = True
        time.sleep(60)
    assert dropped
    time.sleep(0.2)  # and then no more


# Python


def test_the_same_in_python(runs: None, cluster: FakeCluster, api: Api, tmp_path: Path) -> None:
    cluster.put(
        "events", event("FailedScheduling", "none", about="good-master-0", kind="Pod", last=-10_000_000_000 // 100)
    )
    with Client(kubeconfig=str(tmp_path / "kubeconfig"), patience=Patience(deadline=2)) as client:
        assert client.namespace == "team"
        assert {run.name for run in client.list()} == {"good", "stuck", "v2"}
        stuck = client.status("stuck")
        assert stuck.phase == "Pending" and stuck.cause and stuck.cause.name == "wrong image tag"
        progress = client.progress("good")
        assert progress and (progress.step, progress.steps) == (20, 429)
        assert client.waiting("good") is None
        assert [line.text for line in client.logs("good", tail=1, nodes=[0])] == [progress_line(20)]
        assert client.wait("good", timeout=0.1).code == 101
        assert [told.reason for told in client.events("good")] == ["FailedScheduling"]
