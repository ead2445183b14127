"""A revision costs one request, files in the cache none, and a Hub that is away is told at once, in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub

ASKER = """
import json, sys
from distrain_trainer.errors import DistrainError
from distrain_trainer.models.load import load_config, load_tokenizer, resolve
from distrain_trainer.settings.sections import Model
for name in sys.argv[1:]:
    try:
        name, commit = resolve(Model(name=name))
        print(json.dumps([commit, load_config(name, commit).model_type, len(load_tokenizer(name, commit))]))
    except DistrainError as error:
        print(json.dumps([error.exit_code, str(error)]))
"""


def ask(environment: dict[str, str], *names: str) -> list[list[Any]]:
    """What resolve and the loaders answer for these models, in a process of their own."""
    command = [sys.executable, "-c", ASKER, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert "thrown while requesting" not in done.stderr and "Retrying" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_commit_is_asked_for_once_and_a_hub_that_is_away_is_told_at_once(bert: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()}
    model = hub.Repository(files)
    with hub.serve({"models/team/tiny": model}) as service:
        environment = service.environment(tmp_path / "cache")
        first, again = ask(environment, "team/tiny", "team/tiny")
        requests = service.requests
    assert first == again and first[:2] == [model.commit, "bert"]
    assert requests.count("GET /api/models/team/tiny") == 2
    fetched = [request for request in requests if request.startswith("GET") and "/resolve/" in request]
    assert fetched and len(fetched) == len(set(fetched))

    known, unknown = ask(environment, "team/tiny", "team/other")  # nobody answers there any more
    assert known == first
    assert unknown[0] == 64 and "cannot be reached for model team/other" in unknown[1]
    offline, unknown = ask(environment | {"HF_HUB_OFFLINE": "1"}, "team/tiny", "team/other")
    assert offline == first
    assert unknown[0] == 64 and "HF_HUB_OFFLINE is set" in unknown[1]
