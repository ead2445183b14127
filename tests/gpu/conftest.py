"""On which device the tests run, which is a GPU but where the tests themselves are tried, and what they train."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import here
import runs
import tiny


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the tests of tests/gpu without a GPU"
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """cuda or cpu. Ends the tests where there is no GPU. What they start fetches nothing."""
    wanted: str = request.config.getoption("--device")
    if wanted == "cuda" and (why := here.missing() or here.unusable()):
        pytest.exit(why, here.REFUSED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in [name for name in os.environ if name.startswith("DISTRAIN_")]:
            patch.delenv(name)
        if wanted == "cpu":
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield wanted


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with dropout."""
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 labelled texts of 3 to 100 words that a small model can learn to tell apart."""
    return runs.write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl", 600)
