"""Whole runs that push: what is on the Hub in the end, whatever dies on the way, and what it costs the run."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

import hub
from distrain_trainer.storage.layout import temporary
from runs import COMMAND, Victim, digest, losses, tensors, told, train

MODEL = "models/me/tiny"
STEPS = (
    "--schedule.max_steps",
    "12",
    "--evaluation.every_steps",
    "3",
    "--checkpoint.every_steps",
    "3",
    "--run_id",
    "run1",
)
PUSH = ("--hub.repo", "me/tiny", "--hub.wait_minutes", "0.05")

LONG = 900
"""Seconds after which a run has no end."""

pytestmark = pytest.mark.matrix


@pytest.fixture
def service() -> Iterator[hub.Hub]:
    with hub.serve() as running:
        yield running


@pytest.fixture(scope="module")
def plain(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without the Hub."""
    output = tmp_path_factory.mktemp("plain") / "out"
    done = start(train(bert, texts, output, 1, *STEPS), dict(os.environ))
    assert done.returncode == 0, done.stderr
    return output


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=LONG, check=False
    )


def same(one: Path, other: Path) -> bool:
    return digest(one / "final") == digest(other / "final") and losses(one) == losses(other)


def holds(repository: hub.Repository, model: Path) -> bool:
    """Whether the weights in a repository are those of a folder."""
    there: dict[str, torch.Tensor] = {}
    for path, content in repository.files.items():
        there |= load(content) if path.endswith(".safetensors") else {}
    here = tensors(model)
    return there.keys() == here.keys() and all(there[name].equal(tensor) for name, tensor in here.items())


@pytest.mark.parametrize("processes", [1, 2])
def test_each_best_model_is_pushed_and_the_last_with_the_report(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub, processes: int
) -> None:
    output = tmp_path / "out"
    done = start(
        train(bert, texts, output, processes, *STEPS, *PUSH, "--hub.when", "best"),
        service.environment(tmp_path / "home", hub.TOKEN),
    )
    assert done.returncode == 0, done.stderr
    there = service.repositories[MODEL]
    best = json.loads((output / "training_info.json").read_text())["best"]
    steps = [int(re.findall(r"Step (\d+)", message)[0]) for message in there.messages]
    assert steps == sorted(steps) and steps[-1] == best["step"]
    assert holds(there, output / "checkpoint-best") and "report.html" in there.files
    assert json.loads((output / "hub.json").read_text())["finished"] and not temporary(output)
    assert told(done.stderr) == []


@pytest.mark.parametrize("since", [pytest.param("the start", marks=pytest.mark.long), "step 6"])
@pytest.mark.parametrize("when", ["end", "best"])
def test_a_hub_that_is_away_costs_one_warning_and_nothing_else(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub, plain: Path, since: str, when: str
) -> None:
    output = tmp_path / "out"
    environment = service.environment(tmp_path / "home", hub.TOKEN)
    if since == "the start":
        environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    run = Victim(train(bert, texts, output, 1, *STEPS, *PUSH, "--hub.when", when), output, environment)
    if since != "the start":
        assert run.wait_for(lambda: run.step() >= 6)
        service.answers.append(503)
    said = run.process.communicate(timeout=LONG)[1]
    assert run.process.returncode == 0, said
    assert same(output, plain)
    assert said.count("distrain: ") == 1 and "Traceback" not in said
    assert re.search(r"distrain: the model was not pushed: .*; to push it later: distrain push \S+ me/tiny", said)
    service.answers.clear()

    later = ["push", str(output), "me/tiny", *(["--best"] if when == "best" else [])]
    done = start(later, service.environment(tmp_path / "home", hub.TOKEN))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == service.repositories[MODEL].commit
    assert holds(service.repositories[MODEL], output / ("checkpoint-best" if when == "best" else "final"))


def test_a_run_that_is_killed_while_it_pushes_pushes_when_it_is_started_again(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub, plain: Path
) -> None:
    output = tmp_path / "out"
    environment = service.environment(tmp_path / "home", hub.TOKEN)
    arguments = train(bert, texts, output, 1, *STEPS, *PUSH)
    service.faults.append(hub.Fault("commit/main", "hang"))
    run = Victim(arguments, output, environment)
    assert run.wait_for(lambda: any("commit/main" in request for request in list(service.requests)))
    os.kill(run.process.pid, signal.SIGTERM)  # a pod that is asked to leave goes on until it is killed
    run.kill()
    assert not service.repositories[MODEL].messages and json.loads((output / "training_info.json").read_text())
    done = start(arguments, environment)
    assert done.returncode == 0 and "is finished" in done.stderr, done.stderr
    there = service.repositories[MODEL]
    assert len(there.messages) == 1 and holds(there, output / "final") and same(output, plain)
    service.requests.clear()
    assert start(arguments, environment).returncode == 0 and not service.requests


@pytest.mark.long
def test_a_run_that_is_stopped_and_resumed_pushes_the_best_of_all(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub, plain: Path
) -> None:
    output = tmp_path / "out"
    environment = service.environment(tmp_path / "home", hub.TOKEN)
    arguments = train(bert, texts, output, 1, *STEPS, *PUSH, "--hub.when", "best")
    run = Victim(arguments, output, environment)
    assert run.wait_for(lambda: run.step() >= 4)
    run.process.send_signal(signal.SIGTERM)
    said = run.process.communicate(timeout=LONG)[1]
    assert run.process.returncode == 143, said
    service.accounts.clear()  # a token that has expired meanwhile is no reason to give the run up
    done = start(arguments, environment)
    assert done.returncode == 0 and same(output, plain), done.stderr
    assert "HF_TOKEN is wrong or expired" in done.stderr and done.stderr.count("distrain: ") == 1
    service.accounts[hub.TOKEN] = hub.Account()
    assert start(arguments, environment).returncode == 0
    assert holds(service.repositories[MODEL], output / "checkpoint-best")


def test_torchrun_pushes_too(bert: Path, texts: Path, tmp_path: Path, service: hub.Hub) -> None:
    output = tmp_path / "out"
    arguments = train(bert, texts, output, 2, *STEPS, *PUSH)[1:]
    place = arguments.index("--processes")
    del arguments[place : place + 2]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "distrain_trainer"]
    done = subprocess.run(
        [sys.executable, *launcher, *arguments],
        env=service.environment(tmp_path / "home", hub.TOKEN),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(service.repositories[MODEL].messages) == 1 and holds(service.repositories[MODEL], output / "final")


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_run_that_could_not_push_is_refused_before_it_writes(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub, token: str | None
) -> None:
    environment = service.environment(tmp_path / "home", token)
    done = start(train(bert, texts, tmp_path / "out", 1, *STEPS, *PUSH), environment)
    assert done.returncode == 64 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "HF_TOKEN is not set" in done.stderr if token is None else "HF_TOKEN is wrong or expired" in done.stderr
    assert not (tmp_path / "out" / "settings.json").exists() and not (tmp_path / "out" / "attempt.json").exists()


def test_a_token_is_in_nothing_that_a_run_leaves_says_or_sends(
    bert: Path, texts: Path, tmp_path: Path, service: hub.Hub
) -> None:
    output = tmp_path / "out"
    environment = service.environment(tmp_path / "home", hub.TOKEN) | {"WANDB_API_KEY": "a-key-of-a-tracker"}
    arguments = train(bert, texts, output, 2, *STEPS, *PUSH, "--hub.when", "best", "--log_level", "debug")
    service.faults.extend([hub.Fault("commit/main", 401), hub.Fault("preupload", 403), hub.Fault("PUT", 400)])
    run = Victim(arguments, output, environment)
    assert run.wait_for(lambda: run.step() >= 4)
    os.kill(run.workers()[0], signal.SIGABRT)  # leaves a failure report, and a dump where there are any
    said = run.process.communicate(timeout=LONG)[1]
    assert run.process.returncode == 0, said
    validated = start(["validate", *arguments[1:]], environment)
    everything = [said.encode(), validated.stdout.encode(), validated.stderr.encode(), *service.bodies]
    everything += [path.read_bytes() for path in output.rglob("*") if path.is_file()]
    everything += list(service.repositories[MODEL].files.values())
    for secret in (hub.TOKEN.encode(), b"a-key-of-a-tracker"):
        assert not [content for content in everything if secret in content]
