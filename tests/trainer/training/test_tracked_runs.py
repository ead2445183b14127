"""Whole runs that are shown in trackers: what a tracker does or does not do changes nothing about a run."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

import tracked
import wandb_server
from runs import COMMAND, Victim, digest, finish, losses, train

TRACKERS = ("--tracking.trackers", "tensorboard,wandb,mlflow")
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "secretly",
    "HF_TOKEN": "hf_ThisIsTheTokenOfNobody0123456789",
    "MLFLOW_TRACKING_TOKEN": "mlflow-token-of-nobody",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-password-of-nobody",
    "AWS_SECRET_ACCESS_KEY": "aws-key-of-nobody",
}
PASSWORD = "sesame-open-up"
"""Of an address that holds one."""


def with_secrets(server: wandb_server.Server, mlflow: str) -> dict[str, str]:
    """Variables that name the trackers, with secrets that must not be found anywhere."""
    return server.environment() | SECRETS | {"MLFLOW_TRACKING_URI": mlflow}


def complaints(said: str) -> list[str]:
    """Names of the trackers that were complained of."""
    return sorted(line.split()[1] for line in said.splitlines() if "does not take this run" in line)


def assert_no_secret(where: str, content: bytes) -> None:
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret.encode() not in content, f"a secret is in {where}"


def assert_no_secret_in(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_no_secret(str(path), path.read_bytes())


@pytest.fixture(scope="module")
def untold(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run none of whose trackers could be reached, and what it said."""
    output = tmp_path_factory.mktemp("untold") / "out"
    output.mkdir()
    (output / "tensorboard").write_text("no folder")
    arguments = train(bert, few_texts, output, 1, "--schedule.max_steps", "8", *TRACKERS)
    closed = f"127.0.0.1:{tracked.free_port()}"
    nobody = SECRETS | {"WANDB_BASE_URL": f"http://{closed}", "MLFLOW_TRACKING_URI": f"http://user:{PASSWORD}@{closed}"}
    done = subprocess.run([*COMMAND, *arguments], env=os.environ | nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output, done.stdout + done.stderr


def test_trackers_that_cannot_be_reached_cost_one_warning_each_and_nothing_else(untold: tuple[Path, str]) -> None:
    output, said = untold
    assert json.loads((output / "training_info.json").read_text())["status"] == "finished"
    assert len(losses(output)) == 8
    assert complaints(said) == ["mlflow", "tensorboard", "wandb"]
    assert f"the run is not affected, and distrain track {output} sends it later" in said
    assert_no_secret("the log", said.encode())
    assert_no_secret_in(output)


@pytest.mark.matrix
def test_what_trackers_have_missed_is_sent_later(untold: tuple[Path, str], tmp_path: Path) -> None:
    output, database = untold[0], tmp_path / "mlflow.db"
    closed = with_secrets(wandb_server.Server(f"http://127.0.0.1:{tracked.free_port()}"), "http://127.0.0.1:9")
    refused = track(output, closed, tmp_path)
    assert refused.returncode == 138 and "not sent to" in refused.stderr and "Traceback" not in refused.stderr
    (output / "tensorboard").unlink()
    with wandb_server.serve() as server:
        sent = track(output, with_secrets(server, tracked.mlflow_database(database)), tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert_no_secret("what W&B was sent", b"".join(server.bodies))
        assert server.run.steps("train/loss") == list(losses(output))
    assert list(tracked.scalars(output, "train/loss")) == list(losses(output))
    assert sorted(tracked.mlflow_values(database, "train/loss")) == list(losses(output))
    assert_no_secret("what a person reads", (refused.stderr + sent.stdout + sent.stderr).encode())
    assert_no_secret_in(tmp_path)


def track(output: Path, environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    """`distrain track` of a run, in a folder."""
    command, there = [*COMMAND, "track", str(output)], os.environ | environment
    return subprocess.run(command, env=there, cwd=place, capture_output=True, text=True, check=False)


def has_gone_far(victim: Victim, step: int, database: Path) -> bool:
    """Whether a run has done a step, and MLflow has heard of it."""
    return victim.step() >= step and bool(tracked.mlflow_values(database, "train/loss"))


@pytest.mark.matrix
def test_a_run_that_is_killed_stands_in_each_tracker_once_and_no_secret_does(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    output, whole, database = tmp_path / "out", tmp_path / "whole", tmp_path / "mlflow.db"
    options = ("--schedule.max_steps", "120", "--checkpoint.every_steps", "10", "--evaluation.every_steps", "30")
    finish(train(bert, texts, whole, 2, *options))
    with (
        wandb_server.serve() as server,
        tracked.mlflow_server(tmp_path, tracked.mlflow_database(database)) as address,
    ):
        environment = with_secrets(server, address)
        arguments = train(bert, texts, output, 2, *options, *TRACKERS, "--resume")
        for step in (25, 70):
            victim = Victim(arguments, output, environment)
            alive = victim.wait_for(partial(has_gone_far, victim, step, database))
            victim.kill()
            assert alive, "the run ended before it could be killed"
        last = Victim(arguments, output, environment)
        _, said = last.process.communicate(timeout=300)
        assert last.process.returncode == 0 and complaints(said) == [], said
        assert_no_secret("what W&B was sent", b"".join(server.bodies))
        assert server.run.steps("train/loss") == list(range(1, 121)) and server.run.state == "finished"
        assert server.run.steps("eval/loss") == [30, 60, 90, 120]
    assert digest(output / "final") == digest(whole / "final")
    expected = losses(output)
    assert tracked.scalars(output, "train/loss") == pytest.approx(expected)
    assert tracked.mlflow_values(database, "train/loss") == pytest.approx(expected)
    assert list(tracked.scalars(output, "eval/loss")) == [30, 60, 90, 120]
    assert sorted(tracked.mlflow_values(database, "eval/loss")) == [30, 60, 90, 120]
    assert_no_secret("the log", said.encode())
    assert_no_secret_in(tmp_path)


@pytest.mark.matrix
def test_trackers_that_go_away_from_step_20_on_change_nothing_about_the_run(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    output, whole, database = tmp_path / "out", tmp_path / "whole", tmp_path / "mlflow.db"
    options = ("--schedule.max_steps", "200")
    finish(train(bert, texts, whole, 1, *options))
    with wandb_server.serve() as server:
        with tracked.mlflow_server(tmp_path, tracked.mlflow_database(database)) as address:
            arguments = train(bert, texts, output, 1, *options, "--tracking.trackers", "wandb,mlflow")
            victim = Victim(arguments, output, with_secrets(server, address))
            assert victim.wait_for(lambda: server.runs and has_gone_far(victim, 20, database))
            server.away = True
        _, said = victim.process.communicate(timeout=300)
        assert victim.process.returncode == 0, said
        assert complaints(said) == ["mlflow", "wandb"]
        assert digest(output / "final") == digest(whole / "final") and losses(output) == losses(whole)
        assert max(tracked.mlflow_values(database, "train/loss")) < 200

        server.away = False
        with tracked.mlflow_server(tmp_path, f"sqlite:///{database}") as address:
            sent = track(output, with_secrets(server, address), tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert server.run.steps("train/loss") == list(range(1, 201))
    assert sorted(tracked.mlflow_values(database, "train/loss")) == list(range(1, 201))
