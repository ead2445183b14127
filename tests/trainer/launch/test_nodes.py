"""Several nodes: they meet, fall out, are replaced, and the run ends as if nothing had happened."""

import json
import os
import re
import resource
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.errors import FailureReport, RestartsUsedUp, SettingsError, VolumeError
from distrain_trainer.launch import preflight
from distrain_trainer.launch.node import Node, this_node
from distrain_trainer.launch.preflight import check_locked_memory, check_rdma, check_shared_memory, check_volume
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.attempts import Attempts, begin_attempt, end_attempt, read_attempts
from runs import COMMAND, Victim, digest, end, finish, losses, train
from two_nodes import Cluster

STEPS = ("--schedule.max_steps", "40", "--checkpoint.every_steps", "5", "--run_id", "space/run1")


@pytest.fixture(scope="module")
def one_node(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as two processes of one node."""
    output = tmp_path_factory.mktemp("one") / "out"
    finish(train(bert, texts, output, 2, *STEPS))
    return output


MORE = ("worker of node 1", "node 1", "node 1 is asked to leave")


@pytest.mark.parametrize("fault", ["none", "node 0", *(pytest.param(f, marks=pytest.mark.matrix) for f in MORE)])
def test_two_nodes_end_as_one_does_whatever_dies(
    bert: Path, texts: Path, one_node: Path, tmp_path: Path, fault: str
) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    nodes = [cluster.node(0), cluster.node(1)]
    if fault != "none":
        assert nodes[0].wait_for(lambda: nodes[0].step() >= 12)
    match fault:
        case "worker of node 1":
            os.kill(nodes[1].workers()[0], signal.SIGKILL)
        case "node 0" | "node 1":
            lost = int(fault[-1])
            nodes[lost].kill()
            nodes[lost] = cluster.node(lost)
        case "node 1 is asked to leave":
            nodes[1].process.send_signal(signal.SIGTERM)
            end(nodes[1], code=143)
            nodes[1] = cluster.node(1)
    said = [end(node) for node in nodes]
    assert digest(cluster.output / "final") == digest(one_node / "final"), said
    assert losses(cluster.output) == losses(one_node)
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ node 0 rank 0: all-reduce over 2 processes: ", said[0], re.M)
    log = cluster.output / "logs" / "node-1.attempt-1.log"
    assert log.read_text().startswith("attempt 1 on node 1 (machine-1)\n")
    if fault == "node 0":
        assert "lost node 0 (machine-0); starting again" in said[1]
        assert "recvValue failed" not in said[1], "nor the stack that torch's store writes"
    attempts = read_attempts(cluster.output)
    assert attempts.attempt == (1 if fault == "none" else 2)
    for attempt in range(1, attempts.attempt + 1):
        log = cluster.output / "logs" / f"node-0.attempt-{attempt}.log"
        assert '"loss"' in log.read_text() and "rank 0: all-reduce" in log.read_text(), "the first process's lines too"
    assert attempts.spent <= (0 if fault in ("none", "node 1 is asked to leave") else 1)


@pytest.mark.matrix
@pytest.mark.long
def test_sigterm_at_ten_moments_leaves_with_143_and_loses_nothing(
    bert: Path, texts: Path, one_node: Path, tmp_path: Path
) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    nodes = [cluster.node(0), cluster.node(1)]
    for moment in range(10):
        asked = moment % 2
        if moment < 4:  # while it starts: reads settings, imports, meets, loads
            time.sleep((0.3, 1.0, 2.5, 5.0)[moment])
        else:
            step = min(nodes[0].step() + 4, 39)
            if not nodes[0].wait_for(partial(reached, nodes[0], step)):
                break
        nodes[asked].process.send_signal(signal.SIGTERM)
        said = nodes[asked].process.communicate(timeout=120)[1]
        # One that has not yet read its settings is ended by the signal itself; one whose run has ended leaves with 0.
        assert nodes[asked].process.returncode in (143, -signal.SIGTERM, 0), said
        assert "Traceback" not in said
        if nodes[asked].process.returncode == 0:
            break
        nodes[asked] = cluster.node(asked)
    ends = [end(node) for node in nodes if node.process.poll() is None]
    assert digest(cluster.output / "final") == digest(one_node / "final"), ends
    assert losses(cluster.output) == losses(one_node)


def reached(node: Victim, step: int) -> bool:
    return node.step() >= step


def test_nodes_with_other_settings_are_refused_by_all(bert: Path, texts: Path, tmp_path: Path) -> None:
    cluster = Cluster(bert, texts, tmp_path / "out", *STEPS)
    nodes = [cluster.node(0), cluster.node(1, "--seed", "7")]
    said = [end(node, code=64) for node in nodes]
    for text in said:
        assert "the hash of the settings is" in text and "start all nodes from the same image and settings" in text


def test_a_finished_run_is_left_alone_without_meeting_anyone(bert: Path, texts: Path, one_node: Path) -> None:
    cluster = Cluster(bert, texts, one_node, *STEPS)
    before = read_attempts(one_node)
    assert "is finished" in end(cluster.node(1))
    assert read_attempts(one_node) == before


def test_a_node_that_waits_for_the_others_can_be_stopped(bert: Path, texts: Path, tmp_path: Path) -> None:
    node = Cluster(bert, texts, tmp_path / "out", *STEPS).node(0)
    assert node.wait_for(lambda: node.output.exists())
    node.process.send_signal(signal.SIGTERM)
    assert "stopped" in end(node, code=143)


def test_a_volume_that_is_not_shared_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="ReadWriteMany"):
        check_volume(lambda: "", "token", tmp_path, patience=0.1)
    check_volume(lambda: "token", "token", tmp_path)


@pytest.mark.matrix
def test_a_volume_that_becomes_read_only_on_one_node_is_found_out_at_the_next_attempt(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    apart = ["unshare", "-m", "sh", "-c", f'mount --bind {output} {output} && exec "$@"', "sh"]
    tried = subprocess.run([*apart, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs a mount of its own, and unshare says: {tried.stderr.strip()}")
    cluster = Cluster(bert, texts, output, *STEPS)
    nodes = [cluster.node(0, "--schedule.max_steps", "4000")]
    nodes.append(cluster.node(1, "--schedule.max_steps", "4000", command=[*apart, *COMMAND]))
    assert nodes[0].wait_for(lambda: nodes[0].step() >= 12)
    remount = ["nsenter", "-t", str(nodes[1].process.pid), "-m", "mount", "-o", "remount,bind,ro", str(output)]
    subprocess.run(remount, check=True)
    os.kill(nodes[0].workers()[0], signal.SIGKILL)
    for node in nodes:
        assert f"output_dir {output} cannot be written: Read-only file system; mount it writable" in end(node, code=74)


def test_shared_memory_that_loaders_would_fill_is_found_out(tmp_path: Path) -> None:
    loaders = Settings.model_validate({"data": {"workers": 64}})
    with pytest.raises(VolumeError, match=r"has \d+ MB and 64000000 loader processes need 1024000000; enlarge it"):
        check_shared_memory(loaders, processes=1_000_000, folder=tmp_path)
    check_shared_memory(Settings(), processes=1_000_000, folder=tmp_path)


def test_shared_memory_that_nccl_would_fill_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"has \d+ MB and 1000000 processes with GPUs need 16000000; enlarge it"):
        check_shared_memory(Settings(), processes=1_000_000, gpus=8, folder=tmp_path)
    check_shared_memory(Settings(), processes=1, gpus=1, folder=tmp_path)


def test_memory_that_rdma_may_not_lock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, before[1]))
    try:
        monkeypatch.setattr(preflight, "_capabilities", lambda: 0)
        check_locked_memory(2, tmp_path)
        (tmp_path / "uverbs0").write_text("")
        check_locked_memory(1, tmp_path)
        assert not capsys.readouterr().err
        check_locked_memory(2, tmp_path)
        assert "may lock only 64 KB of memory" in capsys.readouterr().err
        monkeypatch.setattr(preflight, "_capabilities", lambda: preflight.IPC_LOCK)
        check_locked_memory(2, tmp_path)
        assert not capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def test_rdma_that_was_promised_and_is_not_there_is_refused(tmp_path: Path) -> None:
    loadable = "libc.so.6"
    with pytest.raises(SettingsError, match=r"RDMA was promised but .* cannot be loaded \(libno\.so\.1"):
        check_rdma(True, tmp_path, "libno.so.1")
    with pytest.raises(SettingsError, match=r"RDMA was promised but .* has no uverbs device here"):
        check_rdma(True, tmp_path, loadable)
    check_rdma(False, tmp_path, "libno.so.1")
    (tmp_path / "uverbs0").write_text("")
    check_rdma(True, tmp_path, loadable)


PET = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "run1-master-0", "PET_MASTER_PORT": "23456"}


@pytest.mark.parametrize(
    ("environment", "processes", "node"),
    [
        ({}, 3, Node(0, 1, 3)),
        (PET | {"PET_NPROC_PER_NODE": "8"}, None, Node(1, 2, 8, "run1-master-0", 23456)),
        (PET | {"PET_NPROC_PER_NODE": "8"}, 2, Node(1, 2, 2, "run1-master-0", 23456)),
        (
            PET | {"PET_NPROC_PER_NODE": "8", "RUN_NODE_NAME": "gpu-17"},
            2,
            Node(1, 2, 2, "run1-master-0", 23456, "gpu-17"),
        ),
        (
            PET | {"PET_NPROC_PER_NODE": "auto", "CUDA_VISIBLE_DEVICES": "0,1"},
            None,
            Node(1, 2, 2, "run1-master-0", 23456),
        ),
        # RANK counts nodes in a PyTorchJob: it is not asked
        (PET | {"PET_NPROC_PER_NODE": "1", "RANK": "7"}, None, Node(1, 2, 1, "run1-master-0", 23456)),
    ],
)
def test_the_environment_says_which_node_this_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], processes: int | None, node: Node
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES", ""))
    assert this_node(processes, environment) == node


def test_sagemaker_says_which_node_this_is(tmp_path: Path) -> None:
    file = tmp_path / "input" / "config" / "resourceconfig.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}))
    environment = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    assert this_node(4, environment) == Node(1, 2, 4, "algo-1", 29500)
    assert this_node(4, environment | PET) == this_node(4, PET)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK is 2 but PET_NNODES is 2"),
        ({"PET_NODE_RANK": "one"}, "PET_NODE_RANK is 'one'"),
        ({"PET_MASTER_ADDR": ""}, "PET_MASTER_ADDR is not set"),
        ({"PET_NPROC_PER_NODE": "0"}, "give 1 or more"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        this_node(None, PET | {"PET_NPROC_PER_NODE": "1"} | changes)


@pytest.mark.parametrize("environment", [{}, PET | {"PET_NPROC_PER_NODE": "8"}])
def test_no_processes_at_all_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="--processes is 0; give 1 or more"):
        this_node(0, environment)


def attempt_and(folder: Path, failure: str | None, code: int = 137, **options: Any) -> Attempts:
    begun = begin_attempt(folder, max_restarts=4, **options)
    end_attempt(folder, begun, None if failure is None else FailureReport(code, failure))
    return begun


def test_restarts_are_counted_since_the_newest_checkpoint_and_stops_are_free(tmp_path: Path) -> None:
    assert [attempt_and(tmp_path, None).spent for _ in range(9)] == [0] * 9
    assert [attempt_and(tmp_path, f"failure {n}").spent for n in range(3)] == [0, 1, 2]
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5/manifest.json").touch()
    assert [attempt_and(tmp_path, f"failure {n}").spent for n in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RestartsUsedUp, match=r"restarted 4 times without a new checkpoint.*failure 4"):
        begin_attempt(tmp_path, max_restarts=4)
    assert begin_attempt(tmp_path, max_restarts=4, forgive=True).spent == 0


@pytest.mark.parametrize("code", [64, 65, 70, 74])
def test_what_a_person_has_to_mend_is_no_restart(tmp_path: Path, code: int) -> None:
    assert [attempt_and(tmp_path, "killed").spent for _ in range(3)] == [0, 1, 2]
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5/manifest.json").touch()
    assert [attempt_and(tmp_path, "no such file", code).spent for _ in range(9)] == [0] * 9


def test_an_attempt_that_was_killed_without_a_word_counts(tmp_path: Path) -> None:
    assert [begin_attempt(tmp_path, 2).spent for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RestartsUsedUp, match="the last ones were killed"):
        begin_attempt(tmp_path, 2)


def test_the_same_failure_at_the_same_step_three_times_is_enough(tmp_path: Path) -> None:
    for _ in range(3):
        attempt_and(tmp_path, "the GPU's memory is used up")
    with pytest.raises(RestartsUsedUp, match="failed 3 times at step 0 in the same way: the GPU's memory is used up"):
        begin_attempt(tmp_path, max_restarts=100)
