"""Whether a run will be able to push is asked before it takes a GPU, and makes nothing on the Hub."""

from typing import Any

import pytest

import hub
from distrain_trainer.errors import SettingsError
from distrain_trainer.hub.access import check_access, check_before_training
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import Hub

ASKED = Hub(repo="team/model")


@pytest.mark.parametrize(
    "account",
    [
        hub.Account("team"),
        hub.Account("Team"),
        hub.Account("me", orgs=("other", "team")),
        hub.Account("me", orgs=("team",), role="fineGrained", scopes=("team",)),
        hub.Account("me", orgs=("team",), role="fineGrained", scopes=("team/model",)),
    ],
)
def test_a_token_that_may_write_is_taken(service: hub.Hub, account: hub.Account) -> None:
    service.accounts[hub.TOKEN] = account
    assert check_access(ASKED) is None
    assert {request.split()[0] for request in service.requests} == {"GET"} and not service.repositories


REFUSED = [
    (hub.Account("team", role="read"), "HF_TOKEN may only read; make one that may write at http"),
    (hub.Account("me", orgs=("other",)), "the account of HF_TOKEN, me, is not a member of team; correct hub.repo"),
    (hub.Account("team", role="fineGrained", scopes=("team/other",)), "a fine-grained one, may not write there"),
    (None, "HF_TOKEN is wrong or expired"),
]


@pytest.mark.parametrize(("account", "sentence"), REFUSED, ids=[case[1][:20] for case in REFUSED])
def test_a_token_that_may_not_write_is_refused(service: hub.Hub, account: hub.Account | None, sentence: str) -> None:
    service.accounts.clear()
    if account:
        service.accounts[hub.TOKEN] = account
    with pytest.raises(SettingsError) as caught:
        check_access(ASKED)
    assert sentence in str(caught.value) and "team/model" in str(caught.value) and hub.TOKEN not in str(caught.value)


def test_a_missing_token_and_an_offline_run_are_refused_without_a_request(
    service: hub.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"hub\.repo is team/model but HF_TOKEN is not set; set it to a token that"):
        check_access(ASKED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE is set, so nothing can be pushed"):
        check_access(ASKED)
    assert not service.requests


def test_a_public_repository_is_refused_unless_it_may_be_public(service: hub.Hub) -> None:
    service.accounts[hub.TOKEN] = hub.Account("team")
    service.repositories["models/team/model"] = hub.Repository()
    with pytest.raises(SettingsError, match=r"team/model is public; set hub\.private to false"):
        check_access(ASKED)
    assert check_access(Hub(repo="team/model", private=False)) is None


def test_a_hub_that_is_away_does_not_keep_a_run_from_starting(
    service: hub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers.append(503)
    check_before_training(ASKED, begun=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    check_before_training(ASKED, begun=False)
    busy, away = capsys.readouterr().err.splitlines()
    assert busy.startswith("the Hub answered 503 for the model repository team/model; try again later")
    assert away.startswith("the Hub at http://127.0.0.1:9 cannot be reached for the model repository team/model")
    assert busy.endswith("training goes on, and the model is pushed when it is there") and "distrain:" not in busy


def test_a_run_that_has_been_training_is_not_given_up_for_its_token(
    service: hub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    service.accounts.clear()
    with pytest.raises(SettingsError):
        check_before_training(ASKED, begun=False)
    check_before_training(ASKED, begun=True)
    assert "HF_TOKEN is wrong or expired" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["model", "a/b/c", "a b/c", "team/x..y", "team/x--y", "team/x.git", "-team/x", "te@m/x"]
)
def test_a_name_that_the_hub_does_not_allow_is_refused_with_the_settings(name: str) -> None:
    with pytest.raises(SettingsError, match=r"--hub\.repo is '.*', but it should be owner/name"):
        read_settings(None, {"hub.repo": name}, {})


def test_settings_of_the_hub_without_a_repository_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"hub has settings but hub\.repo is not set"):
        read_settings(None, {"hub.when": "best"}, {})
