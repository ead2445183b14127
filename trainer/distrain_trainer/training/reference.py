"""The reference of preferences: how likely the model found each answer before it was trained.

It is computed once, by the model as it is loaded, which is the base model where there is a new adapter, and kept in
the run's folder, so that an attempt that continues the run compares with the very same numbers.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from distrain_trainer.data.loader import Collator
from distrain_trainer.data.plan import cut
from distrain_trainer.data.tokens import Tokenized
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Parallel, Tensors
from distrain_trainer.storage.files import sync_file, sync_folder
from distrain_trainer.storage.layout import REFERENCE
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.training.comparing import log_probabilities
from distrain_trainer.training.evaluation import plan_evaluation
from distrain_trainer.training.resolve import ResolvedRun

Parts = dict[str, np.ndarray]


def with_reference(
    resolved: ResolvedRun,
    parallel: Parallel,
    collator: Collator,
    alive: Callable[[], None],
    tell: Callable[[str], None],
) -> ResolvedRun:
    """The run with the reference of its rows, read from its folder or computed now. On all processes, before a
    checkpoint is restored. The same run where none is needed.

    collator: of the training rows. alive: gives a sign of life, which is called at each micro-batch.
    """
    settings, data = resolved.settings, resolved.data
    if not settings.facts.compares or not settings.preference.has_reference:
        return resolved
    path = resolved.folder / REFERENCE
    kept = read(path, data.fingerprint) if resolved.process.is_main and resolved.stored is not None else None
    found = collectives.from_main(kept)
    if found is None:
        tell("computing how likely each answer is before training, the reference of preference.method")
        found = compute(resolved, parallel, collator, alive)
    evaluation = data.evaluation and replace(data.evaluation, reference=found["evaluation"])
    return replace(
        resolved, data=replace(data, train=replace(data.train, reference=found["train"]), evaluation=evaluation)
    )


def compute(resolved: ResolvedRun, parallel: Parallel, collator: Collator, alive: Callable[[], None]) -> Parts:
    """The log-probability of each answer of both parts. On all processes."""
    settings, data, module = resolved.settings, resolved.data, parallel.module
    rows = np.arange(len(data.train))
    planned = {"train": cut(data.train.sizes, rows, settings.batch.limit, samples=None)}
    collators = {"train": collator}
    if data.evaluation is not None:
        planned["evaluation"] = plan_evaluation(data.evaluation.sizes, settings)
        collators["evaluation"] = Collator.of(settings, data.evaluation, resolved.tokenizer)

    def forward(batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        alive()
        return parallel.forward(batch)

    module.eval()
    found = {part: log_probabilities(forward, planned[part], collators[part], resolved.process) for part in planned}
    module.train()
    return found


def keep(resolved: ResolvedRun) -> None:
    """Writes the reference into the run's folder, where it has one. On process 0. Raises VolumeError, VolumeLost."""
    data, folder = resolved.data, resolved.folder
    if data.train.reference is None:
        return
    parts = {"train": data.train.reference}
    if data.evaluation is not None and data.evaluation.reference is not None:
        parts["evaluation"] = data.evaluation.reference
    with_retries("cannot be written", folder, lambda: _write(folder / REFERENCE, parts, data))


def _write(path: Path, parts: Parts, data: Tokenized) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    save_file(parts, temporary, {"data": data.fingerprint})
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)


def read(path: Path, fingerprint: str) -> Parts | None:
    """The reference that a run has kept for its data; None where it is missing, damaged or of other data."""
    try:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}).get("data") != fingerprint:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
