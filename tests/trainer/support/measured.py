"""Measures the memory of a training step: live tensors, what autograd keeps, and the allocator's peak.

`python measured.py CASES RESULT` runs every case of a JSON file, all of one strategy, on as many forked processes as
they say, and writes a JSON file: for each case the bytes on process 0.
"""

import gc
import json
import os
import sys
import tempfile
import traceback
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer

from distrain_trainer.__main__ import quieten_libraries
from distrain_trainer.memory import activations as formula
from distrain_trainer.memory.advice import read_model
from distrain_trainer.memory.model_shapes import sample_model
from distrain_trainer.models.load import load_model
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.api import Parallel, freeze_unreached, parallelize
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import ZERO
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.tasks.table import TASKS

Storages = dict[int, int]
"""Address of each storage -> its bytes."""


def live() -> Storages:
    """All storages that some tensor in Python holds, gradients among them."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and not isinstance(tensor, DTensor) and tensor.device.type != "meta":
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
                elif isinstance(tensor, DTensor):
                    storage = tensor.to_local().untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def is_weight(tensor: torch.Tensor) -> bool:
    """Whether a saved tensor is a parameter, or a view of one."""
    return isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)


def measure(parallel: Parallel, batch: dict[str, torch.Tensor], before: Storages) -> dict[str, int]:
    """Bytes of one process in a step of two micro-batches. before: storages from before there was a model.

    state: what lives between backward pass and update. activations: what autograd keeps from the forward pass.
    peak: the allocator's highest mark, above what lived before the model.
    """

    def micro_batch(last: bool) -> None:
        with parallel.accumulate(last=last):
            parallel.backward(parallel.forward(batch)[0])

    micro_batch(True)
    parallel.step(learning_rate=1e-3)

    saved: list[weakref.ref[torch.Tensor]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(weakref.ref(tensor))  # weak: a graph that leads to no loss is gone before the backward pass
        return tensor

    owned = live()
    # Held, so that what another thread frees meanwhile leaves its address to nothing that is kept.
    older = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    with parallel.accumulate(last=True):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = parallel.forward(batch)
        kept = {t.untyped_storage().data_ptr(): t for t in (tensor() for tensor in saved) if t is not None}
        activations = sum(
            tensor.untyped_storage().nbytes()
            for key, tensor in kept.items()
            if key not in owned and not is_weight(tensor)
        )
        del kept, older
        parallel.backward(loss)
    del loss, _
    gc.collect()
    state = sum(count for key, count in live().items() if key not in before)
    parallel.step(learning_rate=1e-3)

    gc.collect()
    resting = sum(count for key, count in live().items() if key not in before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        micro_batch(False)
        micro_batch(True)
        parallel.step(learning_rate=1e-3)
    level = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return {"state": state, "activations": activations, "peak": resting + peak}


def run_case(case: dict[str, Any], world: int) -> dict[str, int]:
    """Builds the model of a case and measures it. On every process."""
    settings = Settings.model_validate(case["settings"])
    folder = str(sample_model()) if settings.model.name == "sample" else settings.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    labels = ("a", "b", "c") if settings.task == "sequence-classification" else None
    gc.collect()
    before = live()
    preference = settings.preference if settings.facts.compares else None
    model = load_model(settings, folder, None, tokenizer, labels)
    module = SummedLoss(model, settings.precision, TASKS[settings.task], preference=preference)
    empty = batch_of(settings, 1, 1)
    empty["labels"] = torch.full_like(empty["labels"], IGNORE_INDEX)
    freeze_unreached(module, empty)
    parallel = parallelize(settings, Accelerator(cpu=True), module, world)
    if settings.model.chunked_loss:
        formula.CHUNK_BYTES = case["chunk_bytes"]
        assert isinstance(settings.batch.tokens, int)
        module.chunks = formula.chunks_for(True, settings.batch.tokens, read_model(settings).vocabulary)
    assert settings.data.max_length is not None
    batch = batch_of(settings, case["rows"], settings.data.max_length)
    return measure(parallel, batch, before)


def batch_of(settings: Settings, rows: int, length: int) -> dict[str, torch.Tensor]:
    """A micro-batch with some padding in it."""
    vocabulary = read_model(settings).vocabulary
    ids = torch.randint(5, vocabulary, (rows, length))
    mask = torch.ones_like(ids)
    mask[-1, length // 2 + 1 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}
    if settings.task == "sequence-classification":
        batch["labels"] = torch.zeros(rows, dtype=torch.int64)
    if settings.facts.writes:
        batch["labels"] = torch.randint(5, vocabulary, (rows, settings.data.max_target_length if rows > 1 else 1))
    if settings.facts.compares:
        pairs = {"reference": torch.zeros(2 * rows), "chosen_tokens": torch.ones(())}
        batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()} | pairs
        batch["desirable"] = torch.arange(rows) % 2
    return batch


def on_processes(cases: list[dict[str, Any]], world: int) -> list[dict[str, int]]:
    """Runs cases one after the other on `world` forked processes; process 0's figures."""
    scratch = Path(tempfile.mkdtemp())
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                if world > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
                    meet = f"file://{scratch}/meet"
                    dist.init_process_group(
                        "gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(minutes=1)
                    )
                figures = [run_case(case, world) for case in cases]
                if rank == 0:
                    (scratch / "figures.json").write_text(json.dumps(figures))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), f"a process of {cases[0]['settings']['strategy']} failed"
    found: list[dict[str, int]] = json.loads((scratch / "figures.json").read_text())
    return found


if __name__ == "__main__":
    quieten_libraries()
    wanted = json.loads(Path(sys.argv[1]).read_text())
    if wanted[0]["settings"]["strategy"]["kind"] in ZERO:
        import deepspeed  # noqa: F401  once, and not in every process
    Path(sys.argv[2]).write_text(json.dumps(on_processes(wanted, wanted[0]["world"])))
