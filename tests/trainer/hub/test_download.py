"""What is fetched ahead is all that a machine without internet needs."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hub
from distrain_trainer.errors import SettingsError
from distrain_trainer.hub_commands import download, wanted
from runs import COMMAND, digest, losses

OTHER = {
    "pytorch_model.bin": b"x",
    "onnx/model.onnx": b"x",
    "original/consolidated.pth": b"x",
    "README.md": b"# a model\n",
}


@pytest.fixture(scope="module")
def repositories(bert: Path, texts: Path) -> dict[str, hub.Repository]:
    files = {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()}
    stored = {name for name in files if name.endswith(".safetensors")}
    adapter = json.dumps({"base_model_name_or_path": "team/tiny", "revision": None}).encode()
    return {
        "models/team/tiny": hub.Repository(files | OTHER, stored=stored),
        "models/team/adapter": hub.Repository({"adapter_config.json": adapter, "adapter_model.safetensors": b"x"}),
        "models/team/pickled": hub.Repository({"config.json": b"{}", "pytorch_model.bin": b"x"}),
        "datasets/team/texts": hub.Repository({"train.jsonl": texts.read_bytes()}),
    }


@pytest.fixture(scope="module")
def service(repositories: dict[str, hub.Repository]) -> Iterator[hub.Hub]:
    with hub.serve(repositories) as running:
        yield running


def command(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


LOADER = """
import json
from datasets import load_dataset
from transformers import AutoModel, AutoTokenizer
from distrain_trainer.data.sources import locate
from distrain_trainer.settings.sections import Data
model = AutoModel.from_pretrained("team/tiny")
tokenizer = AutoTokenizer.from_pretrained("team/tiny")
rows = load_dataset("team/texts")["train"]
print(json.dumps([len(tokenizer), len(rows), model.num_parameters(), locate(Data(name="team/texts")).commit]))
"""


@pytest.mark.matrix
def test_a_download_is_enough_for_a_machine_without_internet(service: hub.Hub, tmp_path: Path) -> None:
    online = service.environment(tmp_path / "cache")
    done = command(online, "download", "team/tiny", "team/texts")
    assert done.returncode == 0, done.stderr
    commits = [service.repositories[name].commit for name in ("models/team/tiny", "datasets/team/texts")]
    (model,), (data,) = json.loads(done.stdout).values()
    assert (model["name"], model["commit"]) == ("team/tiny", commits[0])
    assert data == {"name": "team/texts", "config": None, "commit": commits[1], "rows": {"train": 600}}
    assert not [
        request
        for request in service.requests
        if request.startswith("GET") and ("pytorch" in request or "onnx" in request)
    ]
    assert {path.name for path in Path(model["folder"]).iterdir()} >= {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }

    offline = online | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    loaded = subprocess.run([sys.executable, "-c", LOADER], env=offline, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout)[1:] == [600, json.loads(loaded.stdout)[2], commits[1]]


@pytest.mark.matrix
def test_what_was_downloaded_trains_offline_as_it_does_online(service: hub.Hub, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {name: team/tiny}\ndata: {name: team/texts}\nschedule: {max_steps: 6}\n")
    online = service.environment(tmp_path / "cache")
    for number, environment in enumerate(
        (online, online | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"})
    ):
        if number == 1:
            environment["XDG_CACHE_HOME"] = str(tmp_path / "tokens")  # so that the rows are read again
        else:
            assert command(environment, "download", tmp_path / "run.yaml").returncode == 0
        done = command(environment, "train", tmp_path / "run.yaml", "--output_dir", tmp_path / f"out{number}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "out0") == losses(tmp_path / "out1")
    assert digest(tmp_path / "out0" / "final") == digest(tmp_path / "out1" / "final")
    records = [json.loads((tmp_path / f"out{number}" / "settings.json").read_text()) for number in (0, 1)]
    assert len({record["settings"]["model"]["revision"] for record in records}) == 1
    assert len({record["data"]["commit"] for record in records}) == 1


FETCHER = """
import json, sys
from distrain_trainer.errors import DistrainError
from distrain_trainer.hub.download import fetch_model
for name in sys.argv[1:]:
    try:
        print(json.dumps([one.name for one in fetch_model(name, None)]))
    except DistrainError as error:
        print(f"{error.exit_code} {error}")
"""


def test_an_adapter_comes_with_its_base_and_what_cannot_be_used_is_told(service: hub.Hub, tmp_path: Path) -> None:
    names = ("team/adapter", "team/pickled", "team/gone", "a b/c")
    fetch = [sys.executable, "-c", FETCHER, *names]
    done = subprocess.run(
        fetch, env=service.environment(tmp_path), capture_output=True, text=True, timeout=120, check=True
    )
    adapter, pickled, gone, malformed = done.stdout.splitlines()
    assert json.loads(adapter) == ["team/adapter", "team/tiny"]
    assert pickled.startswith("64 model team/pickled has no weights as safetensors")
    assert gone.startswith("64 model team/gone is not on the Hub")
    assert "is not a name on the Hub" in malformed
    away = service.environment(tmp_path / "cold") | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([*fetch[:3], "team/tiny"], env=away, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("64 the Hub at http://127.0.0.1:9 cannot be reached for model team/tiny")


def test_a_settings_file_names_all_that_is_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {name: team/tiny, revision: v1}\ndata: {name: team/texts, config: a, revision: v2}\n")
    alone: dict[str, Any] = {"datasets": [], "revision": None, "config": None}
    model, (data,) = wanted(Namespace(model=str(file), **alone))
    assert (model.name, model.revision, data.name, data.config, data.revision) == (
        *("team/tiny", "v1"),
        *("team/texts", "a", "v2"),
    )
    with pytest.raises(SettingsError, match="leave the other arguments out"):
        wanted(Namespace(model=str(file), **alone | {"revision": "v1"}))
    file.write_text("data: {name: sample}\n")
    download(Namespace(model=str(file), **alone), {})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"models": [], "datasets": []}
    assert "model sample is on this machine" in printed.err and "the data, sample, is on this machine" in printed.err
