"""Each file of examples/ says what it needs, its settings are taken, and it trains: on a Hub of small things here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import chats
import hub
import tiny
from distrain_trainer.settings.deepspeed_file import apply
from distrain_trainer.settings.reader import read_settings

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
LAUNCHERS = [*(ROOT / "examples").glob("deepspeed/*"), *(ROOT / "examples").glob("accelerate/*")]
KINDS = {"multi-gpu": "ddp", "zero2": "zero2", "zero3": "zero3", "fsdp": "fsdp"}
SMALL = (
    *("--schedule.max_steps", "2", "--evaluation.samples", "8"),
    *("--strategy.offload_optimizer", "false", "--strategy.offload_parameters", "false"),
)
"""What makes any of them small. Without a GPU there is nothing to offload from."""
SHORT = ("--data.max_length", "64", "--batch.tokens", "512")
OWN = {"function-calling": ("--precision", "fp32"), "chat": ()}
"""Of those whose rows cannot be short; fp16 needs a GPU."""
PROCESSES = {"function-calling": 2, "zero2": 2, "zero3": 2, "yelp-polarity": 2}
TEXTS = [{"text": line, "label": number % 2} for number, line in enumerate(tiny.LINES * 6)]
CONFIGURED = "---\nconfigs:\n- config_name: {0}\n  data_files:\n  - {{split: train, path: train.jsonl}}\n---\n"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_says_what_it_needs_and_is_taken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = file.read_text().splitlines()
    assert first.startswith("# ") and len(first) > 40
    if yaml.safe_load(file.read_text())["model"]["name"] != "sample":
        assert any(line.startswith("# Needs: ") for line in rest)
    monkeypatch.chdir(ROOT)
    read_settings(str(file), {})


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_of_deepspeed_or_accelerate_is_taken(file: Path) -> None:
    settings, _ = apply(read_settings(None, {"strategy.config": str(file)}))
    assert settings.strategy.kind == KINDS[file.stem]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hub.Hub]:
    """Under the names of the examples: small models with random weights, and a few rows."""
    repositories = {}
    for file in EXAMPLES:
        settings = yaml.safe_load(file.read_text())
        model, data = settings["model"]["name"], settings["data"]
        if "/" in model:
            repositories[f"models/{model}"] = hub.Repository(files(tmp_path_factory.mktemp("model"), model))
        if "/" in data.get("name", ""):
            repositories[f"datasets/{data['name']}"] = hub.Repository(rows(data))
    with hub.serve(repositories) as running:
        yield running


def files(folder: Path, name: str) -> dict[str, bytes]:
    """A small model of the kind that the name tells of."""
    if "gpt2" in name:
        tiny.tiny_gpt2(folder)
    elif "bert" in name:
        tiny.tiny_bert(folder)
    else:
        tiny.tiny_llama(folder)
        for name in ("config.json", "tokenizer_config.json"):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace(f": {tiny.POSITIONS}", ": 4096"))
        (folder / "chat_template.jinja").write_text(chats.TOOLS)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(data: dict[str, Any]) -> dict[str, bytes]:
    """A small data set of the kind that the settings read."""
    if "health" in data["name"]:
        return {"train.jsonl": (ROOT / "examples" / "chat.jsonl").read_bytes()}
    lines = "".join(json.dumps(row) + "\n" for row in TEXTS).encode()
    if "config" in data:
        return {"README.md": CONFIGURED.format(data["config"]).encode(), "train.jsonl": lines}
    return {"train.jsonl": lines, "test.jsonl": lines}


@pytest.mark.examples
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_trains(file: Path, service: hub.Hub, tmp_path: Path) -> None:
    reviews = "".join(f'"{row["text"]}",{row["label"]}\n' for row in TEXTS)
    (tmp_path / "reviews.csv").write_text(f"text,label\n{reviews}")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("\n\n".join(tiny.LINES * 4))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = [sys.executable, "-m", "distrain_k8s.cli", "train", str(file), *SMALL, *OWN.get(file.stem, SHORT)]
    command += ["--processes", str(PROCESSES.get(file.stem, 1)), "--output_dir", str(tmp_path / "out")]
    environment = service.environment(tmp_path / "home") | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "training_info.json").read_text())["status"] == "finished"
