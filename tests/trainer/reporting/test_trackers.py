"""Trackers: what arrives in TensorBoard, W&B and MLflow, each step once, through kills."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tracked
import wandb_server
from distrain_trainer.errors import SettingsError
from distrain_trainer.reporting.trackers import choice
from distrain_trainer.reporting.trackers.choice import QUIET, check_trackers
from distrain_trainer.reporting.trackers.replay import track
from distrain_trainer.reporting.trackers.sender import Sender
from distrain_trainer.settings.sections import Tracking
from distrain_trainer.storage.lock import hold
from tracked import append, begin, conclude, cut_back, lines

TRACKERS = ["tensorboard", "wandb", "mlflow"]
LONGEST = 240.0
"""Seconds within which a tracker that gets on has what it was sent, on a machine that does much else."""


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST
    while not what():
        assert time.monotonic() < deadline, "nothing more arrives"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow, made once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracked.mlflow_database(path)
    return path


@pytest.fixture
def mlflow(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty database of MLflow, which MLFLOW_TRACKING_URI names."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts beside, where its store does not say where
    return path


def test_a_run_that_is_killed_and_resumed_is_one_run_in_each_tracker_and_each_step_is_there_once(
    tmp_path: Path, mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(tmp_path / "out", TRACKERS)
    with wandb_server.serve() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        append(folder, *lines(1, 25))

        def have_all(step: int) -> bool:
            """Whether all have what is whole after a step; W&B holds the newest row back itself."""
            arrived = (tracked.scalars(folder, "train/loss"), tracked.mlflow_values(mlflow, "train/loss"))
            there = server.run.steps("train/loss") if server.runs else []
            return all(max(steps, default=0) == step - 1 for steps in arrived) and max(there, default=0) == step - 2

        killed = Sender(folder, attempt=1, kept=0)
        try:
            wait_for(lambda: have_all(25))
        finally:
            killed.leave()
        cut_back(folder, 20)
        append(folder, *lines(21, 40))
        conclude(folder, 40)
        resumed = Sender(folder, attempt=2, kept=20)
        wait_for(lambda: have_all(40))
        resumed.end("finished")

        trained, evaluated = {step: 1 / step for step in range(1, 41)}, {step: 2 / step for step in (10, 20, 30, 40)}
        assert tracked.scalars(folder, "train/loss") == pytest.approx(trained)
        assert tracked.scalars(folder, "eval/loss") == pytest.approx(evaluated)
        assert tracked.mlflow_values(mlflow, "train/loss") == pytest.approx(trained)
        assert tracked.mlflow_values(mlflow, "eval/loss") == pytest.approx(evaluated)
        run = server.run
        assert dict(zip(run.steps("train/loss"), run.values("train/loss"), strict=True)) == pytest.approx(trained)
        assert dict(zip(run.steps("eval/loss"), run.values("eval/loss"), strict=True)) == pytest.approx(evaluated)
        assert len(run.history) == 40


@dataclass(frozen=True)
class Sent:
    """A finished run that `distrain track` has sent to all trackers, and then once more. again: what it said then of
    W&B."""

    folder: Path
    database: Path
    server: wandb_server.Server
    again: str


@pytest.fixture(scope="module")
def sent(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    place = tmp_path_factory.mktemp("finished")
    folder, path = begin(place / "out", TRACKERS), place / "mlflow.db"
    path.write_bytes(database.read_bytes())
    append(folder, *lines(1, 40))
    conclude(folder, 40)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (QUIET | {"MLFLOW_TRACKING_URI": f"sqlite:///{path}"}).items():
            patch.setenv(name, value)
        patch.chdir(place)
        for _ in range(2):
            track(str(folder), {"tracking.trackers": "tensorboard,mlflow"})
    with wandb_server.serve() as server:
        # In a process of its own, since wandb leaves threads and settings behind.
        command = [sys.executable, "-m", "distrain_k8s.cli", "track", str(folder), "--tracking.trackers", "wandb"]
        there = os.environ | server.environment()
        for _ in range(2):
            done = subprocess.run(command, env=there, cwd=place, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return Sent(folder, path, server, done.stderr)


def test_tensorboard_shows_settings_matrix_answers_and_results(sent: Sent) -> None:
    assert tracked.scalars(sent.folder, "final/accuracy") == {40: 0.75}
    assert tracked.scalars(sent.folder, "best/step") == {40: 10.0}
    found = tracked.event_files(sent.folder)

    def text(tag: str) -> str:
        return str(found.Tensors(tag)[-1].tensor_proto.string_val[0].decode())

    assert "learning_rate: 5.0e-05" in text("settings") and "git_commit: c0ffee" in text("settings")
    assert "| cat | 3 | 1 |" in text("confusion matrix")
    assert "How are you?" in text("answers/1")
    assert "_hparams_/session_start_info" in found.summary_metadata


def test_wandb_shows_settings_matrix_answers_report_and_results(sent: Sent) -> None:
    run, artifacts = sent.server.run, sent.server.artifacts
    assert (run.name, run.display_name, run.project, run.state) == ("0123456789ab", "my run", "distrain", "finished")
    assert run.config["optimizer"]["value"]["learning_rate"] == 5e-5
    assert run.config["run"]["value"]["git_commit"] == "c0ffee"
    assert run.summary["final/accuracy"] == 0.75 and run.summary["train/global_step"] == 40
    assert b"<h1>the report</h1>" in run.files[run.summary["report"]["path"]]
    assert run.config["_wandb"]["value"]["visualize"]["confusion_matrix"]
    tables = b"".join(content for files in artifacts.values() for content in files.values())
    assert b'["cat", "dog", 1]' in tables and b"How are you?" in tables


def test_mlflow_shows_settings_matrix_answers_report_and_results(sent: Sent) -> None:
    with sqlite3.connect(sent.database) as database:
        ((name, status, artifacts, project),) = database.execute(
            "select r.name, r.status, r.artifact_uri, e.name from runs r join experiments e using (experiment_id)"
        ).fetchall()
        settings = dict(database.execute("select key, value from params").fetchall())
        tags = dict(database.execute("select key, value from tags").fetchall())
    assert (name, status, project) == ("my run", "FINISHED", "distrain")
    assert settings["optimizer.learning_rate"] == "5e-05" and settings["run.world_size"] == "2"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tracked.mlflow_values(sent.database, "final/accuracy") == {40: 0.75}
    place = sent.database.parent / artifacts.removeprefix("file://")
    assert (place / "report.html").read_text() == "<h1>the report</h1>"
    assert json.loads((place / "confusion_matrix.json").read_text()) == tracked.MATRIX
    assert json.loads((place / "answers.json").read_text())["data"] == [["How are you?", "well", "fine"]]


def test_sending_a_run_again_adds_nothing(sent: Sent) -> None:
    steps = list(range(1, 41))
    assert list(tracked.scalars(sent.folder, "train/loss")) == steps == sent.server.run.steps("train/loss")
    assert sorted(tracked.mlflow_values(sent.database, "train/loss")) == steps
    assert "wandb has everything of this run; steps sent: 0" in sent.again


def test_what_cannot_be_tracked_is_refused(sent: Sent, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run; name the output_dir of one"):
        track(str(tmp_path), {})
    with pytest.raises(SettingsError, match=r"--batch\.tokens is not a setting of tracking"):
        track(str(sent.folder), {"batch.tokens": "8"})
    with pytest.raises(SettingsError, match=r"has no trackers; name one with --tracking\.trackers"):
        track(str(begin(tmp_path / "out", [])), {})
    with hold(sent.folder), pytest.raises(SettingsError, match="is in use by"):
        track(str(sent.folder), {"tracking.trackers": "tensorboard"})


@pytest.mark.matrix
def test_wandb_offline_keeps_one_folder_that_wandb_sync_uploads_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(tmp_path / "out", ["wandb"])
    with monkeypatch.context() as offline:
        offline.setenv("WANDB_MODE", "offline")
        append(folder, *lines(1, 25))
        killed = Sender(folder, attempt=1, kept=0)
        try:
            wait_for(lambda: [*folder.glob("wandb/offline-run-*/run-*.wandb")])
        finally:
            killed.leave()
        cut_back(folder, 20)
        append(folder, *lines(21, 40))
        conclude(folder, 40)
        Sender(folder, attempt=2, kept=20).end("finished")
    (kept,) = folder.glob("wandb/*")
    with wandb_server.serve() as server:
        command, environment = [sys.executable, "-m", "wandb", "sync", str(kept)], os.environ | server.environment()
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert server.run.steps("train/loss") == list(range(1, 41))
        assert (server.run.name, server.run.display_name, server.run.state) == ("0123456789ab", "my run", "finished")


@pytest.mark.matrix
def test_a_run_that_is_stopped_says_so_and_runs_again_when_it_is_resumed(
    tmp_path: Path, mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status() -> str:
        with sqlite3.connect(mlflow) as opened:
            ((found,),) = opened.execute("select status from runs").fetchall()
        return str(found)

    folder = begin(tmp_path / "out", ["mlflow"])
    append(folder, *lines(1, 12))
    stopped = Sender(folder, attempt=1, kept=0)
    wait_for(lambda: len(tracked.mlflow_values(mlflow, "train/loss")) == 11)
    stopped.end("stopped")
    assert status() == "KILLED"
    assert max(tracked.mlflow_values(mlflow, "train/loss")) == 11  # an evaluation of step 12 may follow
    append(folder, tracked.evaluation_line(12), *lines(13, 14))
    resumed = Sender(folder, attempt=2, kept=12)
    try:
        wait_for(lambda: 13 in tracked.mlflow_values(mlflow, "train/loss"))
        assert status() == "RUNNING" and 12 in tracked.mlflow_values(mlflow, "eval/loss")
    finally:
        resumed.leave()


def test_a_sender_that_dies_is_told_of_once_and_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(tmp_path / "out", [])
    sender = Sender(folder, attempt=1, kept=0)
    os.kill(sender.pid, signal.SIGKILL)
    said = ""
    deadline = time.monotonic() + LONGEST
    while "has ended with -9" not in said and time.monotonic() < deadline:
        time.sleep(0.05)
        said += capsys.readouterr().err
    sender.end("finished")
    said += capsys.readouterr().err
    assert (
        said.count("the process that sends to trackers has ended with -9; the run is not affected, and distrain") == 1
    )


def test_what_a_tracker_needs_is_asked_for_before_a_run_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    check_trackers(Tracking(trackers=["tensorboard"]))
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI is not set; set it to the address"):
        check_trackers(Tracking(trackers=["mlflow"]))
    with pytest.raises(SettingsError, match="set WANDB_API_KEY, run wandb login, or set WANDB_MODE=offline"):
        check_trackers(Tracking(trackers=["wandb"]))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(Tracking(trackers=["wandb"]))
    (tmp_path / "wandb").mkdir()  # as wandb leaves it, and no package
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"wandb, whose package is not installed; run pip install 'distrain\[tr"):
        check_trackers(Tracking(trackers=["wandb"]))
