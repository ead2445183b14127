"""Evaluation: every row counts once, on any number of processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from distrain_trainer.data.loader import EVALUATION, Collator, evaluation_batches
from distrain_trainer.data.plan import MicroBatches, cut
from distrain_trainer.metrics import metrics
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Tensors
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import is_target
from distrain_trainer.tasks.table import TASKS

Forward = Callable[[Tensors], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    metrics: by name, without a prefix. details: what the report draws of it, as JSON.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def plan_evaluation(lengths: np.ndarray, settings: Settings) -> MicroBatches:
    """The rows to evaluate on, longest first: all, or `evaluation.samples` of them drawn once under the seed."""
    rows = np.arange(len(lengths))
    if settings.evaluation.samples and settings.evaluation.samples < len(rows):
        generator = np.random.Generator(np.random.PCG64([settings.seed, EVALUATION]))
        rows = np.sort(generator.choice(rows, settings.evaluation.samples, replace=False))
    return cut(lengths, rows, settings.batch.limit, samples=None)  # their number is no part of the result


@torch.no_grad()
def evaluate(
    forward: Forward,
    planned: MicroBatches,
    collator: Collator,
    process: ProcessRank,
    names: tuple[str, ...],
    stop_asked: Callable[[], bool] = lambda: False,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Evaluation | None:
    """Metrics over the planned rows; None if a process was asked to stop before the end. On all processes.

    forward: micro-batch -> (summed loss, predictions), of a model in evaluation mode. names: of the labels.
    """
    labelled = TASKS[collator.task].labelled
    loss_sum, targets, correct = 0.0, 0, 0
    rows: list[tuple[int, Any, Any]] = []
    batches = evaluation_batches(planned, collator, process.rank, process.world)
    slots = -(-len(planned) // process.world)
    for done, (numbers, batch) in enumerate(batches):
        if collectives.total([float(stop_asked())])[0]:
            return None
        loss, predictions = forward(batch)
        labels = batch["labels"]
        predictions = predictions.cpu()
        valid = is_target(labels)
        loss_sum += float(loss)
        targets += int(valid.sum())
        correct += int((predictions == labels)[valid].sum())
        if labelled:
            rows += zip(numbers.tolist(), predictions.tolist(), labels.tolist(), strict=False)
        watch(done + 1, slots)
    loss_sum, all_targets, all_correct = collectives.total([loss_sum, targets, correct])
    if labelled is None:
        return Evaluation(metrics.language_metrics(loss_sum, int(all_targets), int(all_correct)))
    in_order = sorted((row for part in collectives.gather(rows) for row in part), key=itemgetter(0))
    assert len(in_order) == len(planned.rows), "a row was counted twice or not at all"
    _, predicted, true = zip(*in_order, strict=True)
    scores = labelled.score(predicted, true, names)
    return Evaluation({"loss": loss_sum / all_targets} | scores.metrics, scores.details)
