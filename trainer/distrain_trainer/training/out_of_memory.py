"""What a process says whose memory is used up: how much there was, and which settings are most likely to help."""

import os
import re
import resource
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from huggingface_hub import try_to_load_from_cache

from distrain_trainer.errors import SettingsError, TrainingError
from distrain_trainer.hardware.machine import host_memory
from distrain_trainer.memory.advice import size
from distrain_trainer.memory.model_shapes import Weights, local_model, read_folder, weights_of
from distrain_trainer.memory.shortage import Device, host_remedies, remedies, sentence_of
from distrain_trainer.settings.model import Settings

MORE = "give it more memory"
UNITS = {"B": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
AMOUNT = r"([\d.]+) (B|bytes|KiB|MiB|GiB|TiB)"
ASKED = re.compile(rf"(?:[Tt]ried to allocate|Unable to allocate) {AMOUNT}")
CAPACITY = re.compile(rf"total capacity of {AMOUNT}")
FREE = re.compile(rf"of which {AMOUNT} is free")
HELD = re.compile(rf"this process has {AMOUNT} memory in use")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the host has no memory left. torch has no type for the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate" in str(
        error
    )


def shortage_sentence(error: BaseException, settings: Settings | None) -> str:
    """What was asked for, what there is, and what helps. settings: of the run, None where they are not known."""
    traceback.clear_frames(error.__traceback__)  # what they hold is memory too
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if isinstance(error, torch.OutOfMemoryError):
        facts, memory = _of_gpu(str(error))
        device = Device("cuda", processes, memory)
    else:
        facts, memory = _of_host(str(error))
        device = Device("cpu", processes, memory)
    helps = ""
    if settings is not None:
        on_gpu = device.kind == "cpu" and torch.cuda.is_available()
        helps = sentence_of(host_remedies(settings) if on_gpu else remedies(settings, weights_here(settings), device))
    return f"{facts}; {helps or MORE}"


@contextmanager
def told(helps: str) -> Iterator[None]:
    """Raises TrainingError, with the numbers and what helps, where the block runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sentence = shortage_sentence(error, None).removesuffix(MORE)
        raise TrainingError(f"{sentence}{helps}") from None


def weights_here(settings: Settings) -> Weights | None:
    """The shapes of the model's weights, read from this machine without a network; None where they cannot be."""
    with suppress(SettingsError, OSError, ValueError, KeyError):
        folder = local_model(settings.model.name)
        if folder is None:
            file = try_to_load_from_cache(settings.model.name, "config.json", revision=settings.model.revision)
            folder = Path(file).parent if isinstance(file, str) else None
        if folder is not None:
            return weights_of(*read_folder(folder), settings.task)
    return None


def _of_gpu(text: str) -> tuple[str, int | None]:
    """The facts in torch's message, and the GPU's memory in bytes."""
    asked, held, free, capacity = (_bytes(pattern, text) for pattern in (ASKED, HELD, FREE, CAPACITY))
    told = [
        f"{size(asked)} more were asked for" if asked else None,
        f"this process holds {size(held)}" if held else None,
        f"{size(free)} of {size(capacity)} are free" if capacity and free is not None else None,
    ]
    return f"the GPU's memory is used up: {', '.join(filter(None, told)) or text}", capacity


def _of_host(text: str) -> tuple[str, int]:
    """The facts about this process and its machine, and the bytes that the process may hold."""
    asked, process = _bytes(ASKED, text), psutil.Process().memory_info()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < host_memory():
        held, may = process.vms, limit
        told = f"this process holds {size(held)} of the {size(may)} that its limit (ulimit -v) allows"
    else:
        held, may = process.rss, host_memory()
        told = f"this process holds {size(held)} of the {size(may)} of this machine or container"
    more = f"{size(asked)} more were asked for, " if asked else ""
    return f"the host's memory is used up: {more}{told}", may


def _bytes(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(float(found[1]) * UNITS[found[2]]) if found else None
