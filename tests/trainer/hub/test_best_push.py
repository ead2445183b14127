"""The best model goes to the Hub while the run goes on, from a copy, and never at the run's cost."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

import adapters
import hub
from distrain_trainer.errors import Superseded
from distrain_trainer.hub.pushed import step_of
from distrain_trainer.memory.disk import disk_need
from distrain_trainer.memory.estimate import Held
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Hub
from distrain_trainer.storage.attempts import Fence, begin_attempt
from distrain_trainer.storage.layout import temporary
from distrain_trainer.training.best_push import BestPush
from distrain_trainer.training.checkpoint.retention import discard
from distrain_trainer.training.run import run
from runs import digest, losses, tensors

MODEL = "models/me/tiny"
ASKED = Hub(repo="me/tiny", when="best", wait_minutes=0)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a run that is in its second attempt."""
    copy = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    begin_attempt(copy)
    return copy


def wait_for(what: Callable[[], object], push: BestPush) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
        push.look()


def pushing(folder: Path) -> BestPush:
    return BestPush(folder, ASKED, Fence(folder, 2), 2)


def another_best(folder: Path, step: int) -> None:
    """Replaces checkpoint-best as a run does, by another model of another step."""
    best = folder / "checkpoint-best"
    state = json.loads((best / "state.json").read_text()) | {"step": step}
    new = shutil.copytree(folder / "final", folder / "new")
    (new / "README.md").unlink()
    (new / "state.json").write_text(json.dumps(state))
    discard(best)
    new.rename(best)


def test_the_model_that_is_pushed_is_that_of_one_moment(outside: hub.Hub, folder: Path) -> None:
    best = folder / "checkpoint-best"
    first, step = tensors(best), step_of(best)
    outside.faults.append(hub.Fault("preupload", "hang"))
    push = pushing(folder)
    push.look()
    wait_for(lambda: outside.requests and "preupload" in outside.requests[-1], push)
    copy = folder / "tmp.hub.2" / "model.safetensors"
    assert copy.samefile(best / "model.safetensors"), "a copy takes no space where there are links"
    another_best(folder, 99)
    outside.released.set()  # the connection breaks, and huggingface_hub asks again
    wait_for(lambda: (folder / "hub.json").exists(), push)
    wait_for(lambda: json.loads((folder / "hub.json").read_text())["step"] == 99, push)
    there = outside.repositories[MODEL]
    assert [message.partition(":")[0] for message in there.messages] == [f"Step {step}", "Step 99"]
    pushed = load(there.history[0]["model.safetensors"])
    assert all(tensor.equal(pushed[name]) for name, tensor in first.items())
    assert there.files["model.safetensors"] == (folder / "final" / "model.safetensors").read_bytes()
    assert not temporary(folder), "its room is given back"
    push.close()


def test_a_best_model_that_is_there_is_not_pushed_again(outside: hub.Hub, folder: Path) -> None:
    push = pushing(folder)
    push.look()
    wait_for(lambda: (folder / "hub.json").exists(), push)
    push.close()
    outside.requests.clear()
    resumed = pushing(folder)
    resumed.look()
    resumed.close()
    assert not outside.requests and len(outside.repositories[MODEL].messages) == 1


def test_a_hub_that_is_away_is_told_once_and_tried_again(
    outside: hub.Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside.accounts[hub.TOKEN] = hub.Account(role="read")
    push = pushing(folder)
    for step in (50, 60):
        another_best(folder, step)
        push.look()
        wait_for(lambda: push._push is None, push)
    said = capsys.readouterr().err
    assert said.count("is not pushed yet") == 1 and said.startswith("the best model, of step 50, is not pushed yet: ")
    assert "distrain:" not in said
    outside.accounts[hub.TOKEN] = hub.Account()
    another_best(folder, 70)
    wait_for(lambda: (folder / "hub.json").exists(), push)
    push.close()
    assert len(outside.repositories[MODEL].messages) == 1


def test_an_attempt_that_was_replaced_pushes_nothing(outside: hub.Hub, folder: Path) -> None:
    push = pushing(folder)
    begin_attempt(folder)
    with pytest.raises(Superseded):
        push.look()
    push.close()
    assert not outside.requests


def test_a_model_that_is_pushed_is_counted_on_the_disk() -> None:
    sizes = Held(100, 0, 0, 0, 0, 800)
    plain, pushes = Settings(), Settings(hub=ASKED)
    for links in (True, False):
        assert disk_need(sizes, pushes, links=links).models == disk_need(sizes, plain, links=links).models + 400
    assert disk_need(sizes, pushes, evaluates=False) == disk_need(sizes, plain, evaluates=False)


def test_a_run_pushes_its_best_model_and_ends_the_same(
    outside: hub.Hub, finished: Path, bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"schedule.max_steps": 8, "evaluation.every_steps": 4, "optimizer.learning_rate": 1e-2}
    hub_too = {"hub.repo": "me/tiny", "hub.when": "best"}
    output = tmp_path / "out"
    session = run(adapters.settings_of(bert, few_texts, output, **more, **hub_too), resume=False)
    assert session is not None
    assert digest(output / "final") == digest(finished / "final") and losses(output) == losses(finished)
    assert not temporary(output)
    assert "GET /api/whoami-v2" in outside.requests
