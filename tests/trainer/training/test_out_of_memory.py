"""A process that is out of memory says how much there was and what is most likely to help, in order."""

import os
import re
import resource
import sys
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import warm
from distrain_trainer.__main__ import reported
from distrain_trainer.commands import LESS_AT_A_TIME
from distrain_trainer.errors import TrainingError
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.out_of_memory import told

ROOM = 120_000_000
"""Bytes that the run may take: its weights fit, gradients and optimizer do not."""
ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.21 GiB is "
    "free. Including non-PyTorch memory, this process has 77.88 GiB memory in use. Of the allocated memory 70.00 GiB "
    "is allocated by PyTorch, and 5.00 GiB is reserved by PyTorch but unallocated."
)


@pytest.fixture(scope="module")
def model(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of 12.8 million parameters."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.save_pretrained(folder)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=512, n_layer=4, n_head=8)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def work_within(room: int, arguments: list[str], said: str) -> None:
    """Is a worker with so many bytes more than its imports have taken; said: the file for its stderr."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
    from distrain_trainer.__main__ import main

    held = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (held + room, held + room))
    main(arguments)


@pytest.mark.matrix
def test_a_run_whose_machine_has_too_little_memory_ends_with_70_and_what_helps(
    model: Path, few_texts: Path, tmp_path: Path
) -> None:
    arguments = ["--task", "causal-lm", "--model.name", str(model), "--data.files", str(few_texts)]
    arguments += ["--data.max_length", "128", "--output_dir", str(tmp_path / "out")]
    process = warm.SERVER.Process(target=work_within, args=(ROOM, arguments, str(tmp_path / "said")))
    process.start()
    process.join(300)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 70, said
    assert re.fullmatch(
        r"distrain: the host's memory is used up: (\d[\d.]* [GM]B more were asked for, )?this process holds "
        r"[\d.]+ [GM]B of the [\d.]+ [GM]B that its limit \(ulimit -v\) allows; most likely to help, in this order: .*",
        said.splitlines()[-1],
    ), said
    assert "Traceback" not in said
    helps = re.findall(r"([\w.]+)=(\w+) \(([\d.]+) MB less\)", said)
    assert 1 <= len(helps) <= 3
    saved = [float(megabytes) for *_, megabytes in helps]
    assert saved == sorted(saved, reverse=True)


def test_torchs_message_of_a_gpu_becomes_its_numbers_and_three_settings() -> None:
    settings = Settings.model_validate({"task": "causal-lm", "model": {"name": "nobody/nothing"}})
    report = reported(torch.OutOfMemoryError(ON_A_GPU), 0, None, settings)
    assert (report.exit_code, report.sentence) == (
        70,
        "the GPU's memory is used up: 2.1 GB more were asked for, this process holds 83.6 GB, 1.3 GB of 84.9 GB are "
        "free; most likely to help, in this order: model.gradient_checkpointing=true, precision=bf16, "
        "batch.tokens=2048; --resume takes model.gradient_checkpointing",
    )


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("Unable to allocate 64.0 GiB for an array")])
def test_a_memory_error_of_python_or_numpy_is_the_hosts(error: MemoryError) -> None:
    report = reported(error, 0, None, None)
    asked = r"68\.7 GB more were asked for, " if error.args else ""
    assert report.exit_code == 70
    assert re.fullmatch(
        rf"the host's memory is used up: {asked}this process holds .*; give it more memory", report.sentence
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_real_gpu_that_is_full_is_told_with_its_numbers() -> None:
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(torch.OutOfMemoryError) as full:
            torch.empty(torch.cuda.get_device_properties(0).total_memory // 2, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    sentence = reported(full.value, 0, None, None).sentence
    assert re.search(r"used up: [\d.]+ GB more were asked for, this process holds .* free; give it more", sentence)


def test_an_evaluation_that_is_out_of_memory_is_a_sentence_too() -> None:
    with (
        pytest.raises(
            TrainingError, match=r"the host's memory is used up: 1125899\.9 GB more .*; lower --batch\.tokens"
        ),
        told(LESS_AT_A_TIME),
    ):
        torch.empty(2**50, dtype=torch.uint8)  # a petabyte
    with pytest.raises(RuntimeError, match="shape"), told(LESS_AT_A_TIME):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
