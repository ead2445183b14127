"""What a push puts on the Hub, and what becomes of it when the Hub fails."""

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

import hub
from distrain_trainer.errors import DataError, ServiceAway, SettingsError
from distrain_trainer.hub.pushed import Pushed
from distrain_trainer.hub.upload import push_model
from distrain_trainer.settings.sections import Hub
from runs import tensors

MODEL = "models/me/tiny"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def push(folder: Path, said: list[str] | None = None, report: Path | None = None, **asked: Any) -> Pushed:
    told = said if said is not None else []
    return push_model(folder, Hub(repo="me/tiny", **asked), report, told.append)


def test_a_push_brings_model_tokenizer_report_and_card_in_one_commit(finished: Path, service: hub.Hub) -> None:
    pushed = push(finished / "final", report=finished / "report.html")
    there = service.repositories[MODEL]
    assert pushed == Pushed("me/tiny", there.commit, f"{service.url}/me/tiny")
    assert there.private and len(there.messages) == 1
    assert re.fullmatch(r"Step 8: accuracy \d\.\d{4}", there.messages[0])
    assert there.files.keys() >= {"config.json", "tokenizer.json", "settings.json", "report.html", "README.md"}
    assert not {"manifest.json", "state.json"} & there.files.keys()
    there_too, here = load(there.files["model.safetensors"]), tensors(finished / "final")
    assert there_too.keys() == here.keys() and all(tensor.equal(there_too[name]) for name, tensor in here.items())


def test_a_large_file_goes_in_parts(finished: Path, service: hub.Hub) -> None:
    object.__setattr__(service, "part_size", 100_000)
    push(finished / "final")
    assert [request for request in service.requests if request.startswith("POST /complete/")]
    assert (
        service.repositories[MODEL].files["model.safetensors"]
        == (finished / "final" / "model.safetensors").read_bytes()
    )


def test_a_second_push_sends_nothing_again_and_makes_no_commit(finished: Path, service: hub.Hub) -> None:
    first = push(finished / "final")
    service.requests.clear()
    assert push(finished / "final") == first
    assert len(service.repositories[MODEL].messages) == 1
    assert not [request for request in service.requests if request.startswith("PUT") or "/commit/" in request]


def test_a_push_takes_the_files_of_another_model_away(finished: Path, service: hub.Hub) -> None:
    old = {
        "model-00001-of-00002.safetensors": b"a",
        "model.safetensors.index.json": b"{}",
        "adapter_config.json": b"{}",
    }
    service.repositories[MODEL] = hub.Repository(old | {"notes.md": b"mine"}, private=True)
    push(finished / "final")
    there = service.repositories[MODEL]
    assert not old.keys() & there.files.keys() and there.files["notes.md"] == b"mine"
    assert len(there.messages) == 1


# Faults


@pytest.mark.parametrize(
    "request_that_fails",
    ["POST /api/repos/create", "preupload", "objects/batch", "PUT /storage", "objects/verify", "commit/main"],
)
@pytest.mark.parametrize("does", [429, 500, 503, "reset", "lost"])
def test_a_push_goes_on_after_any_request_that_failed(
    finished: Path, service: hub.Hub, request_that_fails: str, does: Any
) -> None:
    service.faults.append(hub.Fault(request_that_fails, does, times=2))
    pushed = push(finished / "final", report=finished / "report.html")
    assert service.faults[0].times < 2
    there = service.repositories[MODEL]
    assert pushed.commit == there.commit and len(there.messages) == 1


def test_a_hub_that_stays_away_is_given_up_after_the_minutes_that_were_asked_for(
    finished: Path, service: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    service.answers.append(503)
    said: list[str] = []
    with pytest.raises(ServiceAway, match="the Hub answered 503 for the model repository me/tiny; try again later"):
        push(finished / "final", said, wait_minutes=5)
    assert slept[:8] == [1, 2, 4, 8, 16, 32, 60, 60] and 240 < sum(slept) <= 300
    assert len(said) == 1 and said[0].endswith("trying again for 5 minutes")


def test_a_hub_that_asks_for_patience_gets_it(
    finished: Path, service: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    service.faults.append(hub.Fault("commit/main", 429, headers={"Retry-After": "33"}))
    push(finished / "final")
    assert slept == [33]


REFUSED = [
    (None, hub.Account(), None, "pushing to the model repository me/tiny needs a token that may write; make one"),
    (
        "hf_wrong",
        hub.Account(),
        None,
        "HF_TOKEN is wrong or expired, so nothing is pushed to the model repository me/tiny",
    ),
    (
        hub.TOKEN,
        hub.Account(role="read"),
        None,
        "HF_TOKEN may not write to the model repository me/tiny (Forbidden: you",
    ),
    (hub.TOKEN, hub.Account("you"), None, 'rights to create a model under the namespace "me"'),
    (hub.TOKEN, hub.Account(), hub.Repository(), "the repository me/tiny is public; set hub.private to false"),
    (hub.TOKEN, hub.Account("you"), hub.Repository(private=True), "HF_TOKEN may not write to the model repository"),
]


@pytest.mark.parametrize(("token", "account", "there", "sentence"), REFUSED, ids=[case[3][:30] for case in REFUSED])
def test_what_the_hub_refuses_is_one_sentence_at_once(
    finished: Path,
    service: hub.Hub,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    account: hub.Account,
    there: hub.Repository | None,
    sentence: str,
) -> None:
    if there:
        service.repositories[MODEL] = there
    service.accounts[hub.TOKEN] = account
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    said: list[str] = []
    with pytest.raises(SettingsError) as caught:
        push(finished / "final", said)
    told = str(caught.value)
    assert sentence in told and "\n" not in told and not said
    assert hub.TOKEN not in told and "hf_wrong" not in told
    assert MODEL not in service.repositories or not service.repositories[MODEL].messages


def test_a_push_offline_says_why_it_does_nothing(
    finished: Path, service: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE is set, so nothing is pushed to me/tiny"):
        push(finished / "final")
    assert not service.requests


def test_a_folder_that_no_run_has_written_is_not_pushed(service: hub.Hub, bert: Path) -> None:
    with pytest.raises(DataError, match=r"has no settings\.json of a run"):
        push(bert)
