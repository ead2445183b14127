"""Fixtures of the trainer's tests: small models, texts of very unequal length, small runs, and the command."""

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
import pytest
import torch

import adapters
import runs
import tiny
import warm
from distrain_trainer.training.run import run


@pytest.fixture(scope="session", autouse=True)
def no_network(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """Tests fetch nothing and write only into their own folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to the other tests
        patch.setenv("OMP_NUM_THREADS", "1")  # small models lose by a second thread, and so do the tests beside
        patch.delenv("HF_ENDPOINT", raising=False)
        for name in [name for name in os.environ if name.startswith("DISTRAIN_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module", autouse=True)
def restore_process() -> Iterable[None]:
    """Restores what a run in this process changes: signal handlers, threads and numerics."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with dropout."""
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder without a pad token."""
    return tiny.tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder whose tokenizer begins each text with <s>."""
    return tiny.tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 labelled texts of 3 to 100 words that a small model can learn to tell apart."""
    return runs.write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl", 600)


@pytest.fixture(scope="session")
def few_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 of such texts."""
    return runs.write_texts(tmp_path_factory.mktemp("few") / "texts.jsonl", 120)


@pytest.fixture(scope="session")
def lora(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of 32 steps with dropout, evaluated in the middle."""
    output = tmp_path_factory.mktemp("lora") / "out"
    run(adapters.settings_of(bert, few_texts, output, **adapters.CLASSIFY), resume=False)
    return output


@pytest.fixture(scope="session")
def qlora(llama: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QLoRA run of twelve steps on a base of 4 bits, in one process."""
    output = tmp_path_factory.mktemp("qlora") / "out"
    run(adapters.settings_of(llama, few_texts, output, **adapters.QUANTIZED), resume=False)
    return output


@pytest.fixture(scope="session")
def run_command(tmp_path_factory: pytest.TempPathFactory) -> runs.RunCommand:
    """Runs the command, in a folder of its own, to its end."""
    folder = tmp_path_factory.mktemp("here")

    def command(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return warm.run([*map(str, arguments)], folder, os.environ, stdin, timeout=300)

    return command
