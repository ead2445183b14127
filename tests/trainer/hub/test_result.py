"""The push at the end of a run: in a process of its own, once, and never at the run's cost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hub
from distrain_trainer.hub.background import PushProcess
from distrain_trainer.hub.result import push_result
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.settings.sections import Hub

MODEL = "models/me/tiny"


@pytest.fixture
def asked(finished: Path, tmp_path: Path) -> Settings:
    """Settings of a copy of the finished run that wants to be pushed."""
    folder = shutil.copytree(finished, tmp_path / "a run", symlinks=True)
    record = json.loads((folder / "settings.json").read_text())
    values = {"output_dir": str(folder), "hub.repo": "me/tiny", "hub.wait_minutes": 0.02}
    return changed(Settings.model_validate(record["settings"]), values)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def never() -> bool:
    return False


def test_a_finished_run_is_pushed_once(outside: hub.Hub, asked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    push_result(asked, never)
    there = outside.repositories[MODEL]
    note = json.loads((Path(asked.output_dir) / "hub.json").read_text())
    assert (note["repo"], note["commit"], note["model"], note["step"]) == ("me/tiny", there.commit, "final", 8)
    assert "report.html" in there.files and capsys.readouterr().err.endswith(f"on the Hub: {outside.url}/me/tiny\n")
    outside.requests.clear()
    push_result(asked, never)
    assert not outside.requests
    push_result(changed(asked, {"hub.repo": "me/other"}), never)
    assert outside.repositories["models/me/other"].messages


def test_the_best_model_is_pushed_where_it_is_asked_for(outside: hub.Hub, asked: Settings) -> None:
    best = json.loads((Path(asked.output_dir) / "checkpoint-best" / "state.json").read_text())["best"]
    push_result(changed(asked, {"hub.when": "best"}), never)
    there = outside.repositories[MODEL]
    assert there.messages == [f"Step {best['step']}: accuracy {best['value']:.4f}"]
    assert f"at step {best['step']}:" in there.files["README.md"].decode()
    assert "state.json" not in there.files


def test_a_push_that_fails_is_one_warning_with_the_command_for_later(
    outside: hub.Hub, asked: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    outside.answers.append(503)
    push_result(asked, never)
    said = capfd.readouterr().err
    command = f"distrain push '{asked.output_dir}' me/tiny"
    assert said.count("distrain: ") == 1 and "Traceback" not in said
    why = "the Hub answered 503 for the model repository me/tiny; try again later"
    assert f"was not pushed: {why}; to push it later: {command}\n" in said
    assert not (Path(asked.output_dir) / "hub.json").exists()
    outside.answers.clear()
    push_result(asked, never)
    assert outside.repositories[MODEL].messages


def test_a_push_that_is_killed_before_its_commit_is_done_by_the_next(outside: hub.Hub, asked: Settings) -> None:
    outside.faults.append(hub.Fault("commit/main", "hang"))
    folder = Path(asked.output_dir)
    push = PushProcess(folder / "final", asked.hub, None, quiet=True)
    wait_for(lambda: outside.requests and "commit" in outside.requests[-1])
    push.kill()
    assert not outside.repositories[MODEL].messages
    outside.requests.clear()
    push_result(asked, never)
    assert len(outside.repositories[MODEL].messages) == 1
    assert not [request for request in outside.requests if request.startswith("PUT")], "the weights are there already"


def test_a_push_that_is_killed_after_its_commit_is_not_done_twice(outside: hub.Hub, asked: Settings) -> None:
    folder = Path(asked.output_dir)
    push = PushProcess(folder / "final", asked.hub, folder / "report.html", quiet=True)
    wait_for(lambda: outside.repositories.get(MODEL) and outside.repositories[MODEL].messages)
    push.kill()
    push_result(asked, never)
    assert len(outside.repositories[MODEL].messages) == 1 and (folder / "hub.json").exists()


def test_ctrl_c_ends_a_push_and_not_the_run(
    outside: hub.Hub, asked: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    outside.faults.append(hub.Fault("commit/main", "hang"))
    push_result(asked, lambda: bool(outside.requests) and "commit" in outside.requests[-1])
    assert "was not pushed: it was interrupted; to push it later: distrain push" in capsys.readouterr().err


STARTER = """
import json, sys, time
from pathlib import Path
from distrain_trainer.hub.background import PushProcess
from distrain_trainer.settings.sections import Hub
push = PushProcess(Path(sys.argv[1]), Hub(repo="me/tiny"), None, quiet=True)
print(push._process.pid, flush=True)
time.sleep(100)
"""


def test_a_push_ends_with_the_process_that_has_started_it(outside: hub.Hub, finished: Path) -> None:
    outside.faults.append(hub.Fault("commit/main", "hang"))
    command = [sys.executable, "-c", STARTER, str(finished / "final")]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    pid = int(starter.stdout.readline())
    wait_for(lambda: outside.requests and "commit" in outside.requests[-1])
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert not outside.repositories[MODEL].messages and os.environ["HF_TOKEN"] == hub.TOKEN


def test_a_process_without_an_answer_is_told(outside: hub.Hub, asked: Settings, tmp_path: Path) -> None:
    from distrain_trainer.errors import DistrainError

    with pytest.raises(DistrainError, match=r"has no settings\.json of a run"):
        PushProcess(tmp_path, Hub(repo="me/tiny"), None, quiet=True).result()
    push = PushProcess(Path(asked.output_dir) / "final", asked.hub, None, quiet=True)
    os.kill(push._process.pid, signal.SIGKILL)
    with pytest.raises(DistrainError, match="the process that pushed ended with -9"):
        push.result()
