"""Fixtures of the Hub's tests: a small finished run, and a Hub that this process talks to."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

import adapters
import hub
from distrain_trainer.training.run import run


@pytest.fixture(scope="session")
def finished(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps, evaluated in the middle."""
    output = tmp_path_factory.mktemp("finished") / "out"
    more = {"schedule.max_steps": 8, "evaluation.every_steps": 4, "optimizer.learning_rate": 1e-2}
    run(adapters.settings_of(bert, few_texts, output, **more), resume=False)
    return output


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """An empty Hub, to which this process has a token that may write."""
    with hub.serve() as running:
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield running


@pytest.fixture
def outside(service: hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hub.Hub:
    """The same Hub, to which processes that are started from here talk too."""
    for name, value in service.environment(tmp_path / "home", hub.TOKEN).items():
        monkeypatch.setenv(name, value)
    return service
