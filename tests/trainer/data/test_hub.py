"""Data sets on the Hub, and what is said when they cannot be had."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import hub
from distrain_trainer.errors import DataError, ServiceAway, SettingsError
from distrain_trainer.hub.errors import hub_error, hub_sentence
from distrain_trainer.training.run import waiting_for_services
from opening import ROWS, located, refusal

LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TWO_LINES = b"".join(LINES.splitlines(keepends=True)[:2])
CONFIGURED = b"---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"
REPOSITORIES = {
    "datasets/owner/fine": hub.Repository({"train.jsonl": LINES, "test.jsonl": TWO_LINES}),
    "datasets/owner/private": hub.Repository({"train.jsonl": LINES}, private=True),
    "datasets/owner/gated": hub.Repository({"train.jsonl": LINES}, gated=True),
    "datasets/owner/parts": hub.Repository({"README.md": CONFIGURED, "a.jsonl": LINES, "b.jsonl": TWO_LINES}),
    "datasets/owner/corrupt": hub.Repository({"train.jsonl": b"hello\n"}),
    "datasets/owner/script": hub.Repository({"script.py": b"import os\n"}),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with hub.serve(REPOSITORIES, {"hf_secret": hub.Account("somebody")}) as running:
        yield running


@pytest.fixture
def reached(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", service.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return service


def test_a_revision_becomes_a_commit(reached: Any) -> None:
    commit = REPOSITORIES["datasets/owner/fine"].commit
    origin = located(name="owner/fine", revision="main")
    assert origin.commit == commit
    assert origin.description == f"owner/fine at {commit[:7]}"
    assert located(name="owner/fine", config="x").fingerprint != origin.fingerprint
    reached.requests.clear()
    assert located(name="owner/fine", revision=commit) == origin
    assert not reached.requests


def test_what_the_hub_does_not_have_is_told_apart(reached: Any, tmp_path: Path) -> None:
    gone = refusal(tmp_path, name="owner/gone")
    assert "data set owner/gone is not on the Hub, or is private and HF_TOKEN is not set; check data.name" in gone
    assert "owner/private is not on the Hub, or is private" in refusal(tmp_path, name="owner/private")
    unknown = refusal(tmp_path, name="owner/fine", revision="v9")
    assert "data set owner/fine has no revision v9; choose a branch, tag or commit for data.revision" in unknown
    assert "is not a name on the Hub" in refusal(tmp_path, name="a b/c/d")


def test_a_token_without_access_is_told_from_none(
    reached: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sentence = refusal(tmp_path, name="owner/private")
    assert "the account of HF_TOKEN has no access" in sentence
    assert "hf_secret" not in sentence


def test_an_unreachable_hub_is_told_from_a_missing_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert "the Hub at http://127.0.0.1:9 cannot be reached" in refusal(tmp_path, name="owner/never-seen")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it, or fill the cache" in refusal(tmp_path, name="owner/never-seen")


READER = """
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from distrain_trainer.data.sources import locate, read
from distrain_trainer.errors import DataError
from distrain_trainer.settings.model import Settings
folder = Path(sys.argv[1])
for line in sys.argv[2:]:
    name, config, revision = (part or None for part in line.split(","))
    data = {"name": name, "config": config, "revision": revision}
    settings = Settings.model_validate({"task": "causal-lm", "data": data})
    try:
        splits = read(settings, locate(settings.data), folder, print)
        print(len(splits.train), len(splits.evaluation))
    except DataError as error:
        print(error)
"""


def read_elsewhere(environment: dict[str, str], folder: Path, *lines: str) -> list[str]:
    """Rows of data sets, or the refusals, from a process that was started with this environment."""
    command = [sys.executable, "-c", READER, str(folder), *lines]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_data_sets_on_the_hub_are_read_or_refused_with_a_reason(service: Any, tmp_path: Path) -> None:
    environment = service.environment(tmp_path)
    lines = ["fine,,", "parts,b,", "parts,,", "parts,c,", "gated,,", "corrupt,,", "script,,"]
    fine, parts, unnamed, unknown, gated, corrupt, script = read_elsewhere(
        environment, tmp_path, *(f"owner/{line}" for line in lines)
    )
    assert fine == "20 2"
    assert parts == "1 1"
    assert unnamed == "data set owner/parts has several configurations; set data.config to one of ['a', 'b']"
    assert unknown == "data set owner/parts has no configuration 'c'; set data.config to one of ['a', 'b']"
    assert gated == (
        f"data set owner/gated is gated and HF_TOKEN is not set; accept its terms at "
        f"{service.url}/datasets/owner/gated and set HF_TOKEN to a token of that account"
    )
    assert corrupt.startswith("data set owner/corrupt at ") and "cannot be read: " in corrupt
    assert "scripts are no longer supported" in script

    commit = REPOSITORIES["datasets/owner/fine"].commit
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    names = (f"owner/fine,,{commit}", f"owner/fine,,{'0' * 40}", "owner/fine,,", "owner/fine,,main", "owner/fine,,v2")
    cached, other, newest, branch, unknown = read_elsewhere(offline, tmp_path, *names)
    assert cached == newest == branch == "20 2"
    assert "the cache holds another commit" in other
    assert "HF_HUB_OFFLINE is set" in unknown


def test_the_sentence_follows_the_causes_of_a_wrapped_error(reached: Any) -> None:
    try:
        try:
            huggingface_hub.HfApi().model_info("owner/gone")
        except huggingface_hub.errors.RepositoryNotFoundError as error:
            raise OSError("owner/gone is not a local folder\nand a second line") from error
    except OSError as wrapped:
        sentence = hub_sentence(wrapped, "model", "owner/gone", None)
    assert sentence.startswith("model owner/gone is not on the Hub, or is private")
    assert "check model.name" in sentence
    plain = hub_sentence(OSError("no file named x.\nmore"), "model", "owner/odd", None)
    assert plain == "model owner/odd cannot be loaded: no file named x"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_hub_that_is_overloaded_or_broken_is_waited_for(reached: Any, status: int) -> None:
    reached.answers.append(status)
    try:
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as answered:
            huggingface_hub.HfApi().model_info("owner/fine")
    finally:
        reached.answers.clear()
    found = hub_error(answered.value, "model", "owner/fine")
    assert isinstance(found, ServiceAway) and found.passes and found.exit_code == 138
    assert str(found).startswith(f"the Hub answered {status} for model owner/fine; ")


def test_a_hub_that_cannot_be_reached_is_waited_for_once_the_run_has_begun() -> None:
    def ask() -> None:
        raise hub_error(ConnectionError("no route"), "data set", "owner/fine")

    with pytest.raises(DataError, match="cannot be reached"), waiting_for_services(begun=False):
        ask()
    with pytest.raises(ServiceAway, match="cannot be reached"), waiting_for_services(begun=True):
        ask()
    with pytest.raises(SettingsError, match="other"), waiting_for_services(begun=True):
        raise SettingsError("other")
