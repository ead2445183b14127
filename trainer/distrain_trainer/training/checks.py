"""What is checked before training: the devices, the data, and that all processes start the same."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.import_utils import is_flash_attn_2_available

from distrain_trainer.data.plan import Plan
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.tokens import Tokenized
from distrain_trainer.errors import DataError, DeviceLost, SettingsError, TrainingError
from distrain_trainer.hardware.machine import device_memory
from distrain_trainer.memory.advice import fewer_nodes_problem, read_model
from distrain_trainer.models.load import stop_tokens
from distrain_trainer.models.lora import check_installed
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings, flat
from distrain_trainer.storage.run_folder import Claim

ROWS_SEARCHED = 1000
"""Rows of a chat that are searched for a token that ends an answer."""


def check_device(
    settings: Settings, local_world: int = 1, promised: int = 0, begun: bool = False, node: str | None = None
) -> None:
    """Refuses what this machine does not have, where Accelerate would silently take something else.

    local_world: processes on this machine. promised: GPUs that the cluster has promised. begun: the run has been
    training, so that a GPU that is missing now was lost. node: Kubernetes' name of this machine. Raises SettingsError,
    DeviceLost.
    """
    cuda = torch.cuda.is_available()
    if begun and torch.cuda.device_count() < min(promised, local_world):
        machine = node or "this machine"
        raise DeviceLost(
            f"{machine} has {torch.cuda.device_count()} GPUs where {promised} were promised and the run was training; "
            f"see dmesg there for an Xid, delete this pod to get a new one, and put {machine} into avoidNodes of the "
            "chart where it happens again"
        )
    if promised and not cuda:
        raise SettingsError(
            f"{promised} GPUs per node were promised but there is no CUDA device here; check the node's driver and "
            "device plugin and that the image is the cuda one, or set gpus=0 to train on the CPU"
        )
    if cuda and torch.cuda.device_count() < local_world:
        raise SettingsError(
            f"{local_world} processes were started on this node but only {torch.cuda.device_count()} GPUs are visible "
            "here, and each process needs its own (slices of one GPU by MIG or time-slicing count as one); lower "
            "--processes, or gpusPerNode of the chart"
        )
    if settings.model.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise SettingsError(
            "model.attention is flash_attention_2 but there is no GPU with the package flash-attn here; use sdpa"
        )
    check_installed(settings)
    if settings.optimizer.name == "paged_adamw_8bit" and not cuda:
        raise SettingsError(
            "optimizer.name is paged_adamw_8bit, whose pages need a GPU, and there is none here; use adamw_8bit"
        )
    if settings.model.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise SettingsError("model.compile needs a C++ compiler, which is missing; install g++ or set it to false")
    if settings.precision == "fp16" and not cuda:
        raise SettingsError("precision is fp16 but there is no GPU here; use bf16 or fp32")
    if settings.precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise SettingsError(
            f"precision is bf16, which {torch.cuda.get_device_name()} does not support; use fp16 or fp32"
        )


def check_memory_of_fewer(settings: Settings, claimed: Claim, process: ProcessRank) -> None:
    """Refuses `elastic.min_nodes` where the run would not fit so few nodes, when it is set. Raises SettingsError."""
    before = claimed.stored and Settings.model_validate(claimed.stored["settings"]).elastic
    if settings.elastic.min_nodes is None or settings.elastic == before:
        return
    assert isinstance(settings.batch.tokens, int)
    memory = device_memory(process.local_rank, process.local_world)
    shape = settings.batch.tokens, process.nodes, process.local_world
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if problem := fewer_nodes_problem(read_model(settings), settings, *shape, memory, device):
        raise SettingsError(problem)


def check_same_data(claimed: Claim, data: Tokenized) -> None:
    """Refuses to resume on other data than the run was started with. Raises DataError."""
    if claimed.stored and claimed.stored["data"]["fingerprint"] != data.fingerprint:
        raise DataError(
            f"the data are not those that the run in {claimed.folder} was started with "
            f"({claimed.stored['data']['description']} then, {data.origin.description} now); bring the old data back, "
            "or choose another output_dir"
        )


def tell_endless(
    settings: Settings, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows, tell: Callable[[str], None]
) -> None:
    """Warns where a chat model will not learn to end its answers, because no row has an end token to learn from."""
    if settings.facts.holds != "messages":
        return
    assert rows.labels is not None
    ends = sorted(stop_tokens(model))
    if not np.isin(rows.labels[: rows.offsets[min(len(rows), ROWS_SEARCHED)]], ends).any():
        named = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ends))) or "the tokenizer has none"
        tell(
            f"the model will not learn to end its answers: no trained token ends one ({named}); let chat.template "
            "write one after each assistant turn, inside {% generation %} where it has such tags"
        )


def check_same_start(settings: Settings, plan: Plan, data: Tokenized, weights: Iterable[torch.Tensor]) -> None:
    """Makes sure that all processes are about to do the same. On all processes. Raises TrainingError."""
    about = {
        "settings": json.dumps(flat(settings), sort_keys=True),
        "data": data.fingerprint,
        "plan": repr((plan.steps, plan.ends.tolist(), hashlib.sha256(plan.epoch(0).rows.tobytes()).hexdigest())),
        "weights": tensors_digest(weights),
    }
    for what in about:
        values = collectives.gather(about[what])
        if len(set(values)) > 1:
            other = next(rank for rank, value in enumerate(values) if value != values[0])
            raise TrainingError(
                f"process {other} starts with different {what} than process 0; start all processes from one image"
            )


def tell_changes(stored: Mapping[str, Any] | None, record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Says what has changed about the machines of a resumed run, because that can change the last bits.

    stored, record: settings.json of the attempt before and of this one.
    """
    for part in ("world_size", "threads", "versions", "hardware"):
        before, now = (stored or record).get(part), record[part]
        if before != now:
            if isinstance(now, dict) and isinstance(before, dict):
                now = {name: value for name, value in now.items() if before.get(name) != value}
                before = {name: before.get(name) for name in now}
            tell(f"{part.replace('_', ' ')} changed since the last attempt: {before} then, {now} now")


def tensors_digest(tensors: Iterable[torch.Tensor]) -> str:
    """A digest of tensors that costs one pass over their memory: of each, the sum of its bits as integers."""

    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().contiguous().flatten().view(torch.int32 if tensor.element_size() == 4 else torch.uint8)

    sums = [int(bits(tensor).sum(dtype=torch.int64)) for tensor in tensors]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()
