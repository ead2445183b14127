"""Answers that are compared or judged: what an evaluation measures of them, and how likely they were before."""

from collections.abc import Callable

import numpy as np
import torch

from distrain_trainer.data.loader import Collator, evaluation_batches
from distrain_trainer.data.plan import MicroBatches
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Tensors
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.kto import scores_of_answers
from distrain_trainer.tasks.preference import COMPARED

Forward = Callable[[Tensors], tuple[torch.Tensor, torch.Tensor]]


def compare(
    forward: Forward,
    planned: MicroBatches,
    collator: Collator,
    process: ProcessRank,
    preference: Preference,
    stop_asked: Callable[[], bool],
    watch: Callable[[int, int], None],
) -> dict[str, float] | None:
    """The loss and `COMPARED`, each the mean over the pairs, or of judged answers the scores of kto; None if a process
    was asked to stop. On all processes.

    forward: micro-batch -> (summed loss, what is measured of each pair), of a model in evaluation mode.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    sums = np.zeros(len(COMPARED) + 2)
    slots = -(-len(planned) // process.world)
    for done, (numbers, batch) in enumerate(evaluation_batches(planned, collator, process.rank, process.world)):
        if collectives.total([float(stop_asked())])[0]:
            return None
        loss, found = forward(batch)
        values = found.double().cpu().numpy()[: len(numbers)]
        if preference.judges:
            parts.append((numbers, values))
        else:
            sums += [float(loss), len(numbers), *values.sum(0)]
        watch(done + 1, slots)
    if preference.judges:
        gathered = [part for theirs in collectives.gather(parts) for part in theirs]
        order = np.argsort(np.concatenate([numbers for numbers, _ in gathered]))
        return scores_of_answers(preference, np.concatenate([values for _, values in gathered])[order])
    loss_sum, pairs, *others = collectives.total(sums.tolist())
    return {"loss": loss_sum / pairs} | {name: value / pairs for name, value in zip(COMPARED, others, strict=True)}


@torch.no_grad()
def log_probabilities(forward: Forward, planned: MicroBatches, collator: Collator, process: ProcessRank) -> np.ndarray:
    """The log-probability of each answer: fp32 [rows, 2], NaN for rows that are not planned. On all processes.

    forward: micro-batch without a reference -> (nothing, fp32 [pairs, 2]), of a model in evaluation mode.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for numbers, batch in evaluation_batches(planned, collator, process.rank, process.world):
        _, logps = forward({name: tensor for name, tensor in batch.items() if name != "reference"})
        found.append((numbers, logps.float().cpu().numpy()[: len(numbers)]))
    made = np.full((len(collator.rows), 2), np.nan, np.float32)
    for part in collectives.gather(found):
        for numbers, theirs in part:
            made[numbers] = theirs
    return made
