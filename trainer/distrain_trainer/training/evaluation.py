"""Evaluation: every row counts once, on any number of processes."""

from collections.abc import Callable, Iterator, Sequence
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
from distrain_trainer.settings.sections import Preference
from distrain_trainer.settings.tasks import FACTS
from distrain_trainer.tasks.labels import is_target
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Scores
from distrain_trainer.training.comparing import compare
from distrain_trainer.training.further import Further
from distrain_trainer.training.writing import Writing, write

ScoredRow = tuple[int, Any, Any, Any]
"""Number of a row, its prediction, its label, and the probabilities of its classes where they are wanted."""
NO_FURTHER = Further()
PAIRS = Preference()
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
    further: Further = NO_FURTHER,
    say: Callable[[str], None] = lambda text: None,
    writing: Writing | None = None,
    preference: Preference = PAIRS,
) -> Evaluation | None:
    """Metrics over the planned rows; None if a process was asked to stop before the end. On all processes.

    forward: micro-batch -> (summed loss, predictions), of a model in evaluation mode; logits in place of predictions
    where further metrics take scores. names: of the labels. further: metrics beside the task's own. say: takes a
    sentence about one that fails. writing: what the model writes for it. preference: how answers are compared.
    """
    task = TASKS[collator.task]
    if FACTS[collator.task].compares:
        compared = compare(forward, planned, collator, process, preference, stop_asked, watch)
        return None if compared is None else Evaluation(compared)
    loss_sum, targets, correct = 0.0, 0, 0
    rows: list[ScoredRow] = []
    batches = evaluation_batches(planned, collator, process.rank, process.world)
    slots = -(-len(planned) // process.world)
    for done, (numbers, batch) in enumerate(batches):
        if collectives.total([float(stop_asked())])[0]:
            return None
        loss, predictions = forward(batch)
        labels = batch["labels"]
        predictions = predictions.cpu()
        scores = None
        if further.take_scores and task.labelled and task.labelled.probabilities:
            scores, predictions = task.labelled.probabilities(predictions).numpy(), task.decide(predictions)
        valid = is_target(labels)
        loss_sum += float(loss)
        targets += int(valid.sum())
        correct += int((predictions == labels)[valid].sum())
        if task.labelled:
            rows += rows_of(numbers, predictions.numpy(), labels.numpy(), scores)
        watch(done + 1, slots)
    loss_sum, all_targets, all_correct = collectives.total([loss_sum, targets, correct])
    if task.labelled is None:
        measured = metrics.language_metrics(loss_sum, int(all_targets), int(all_correct))
        written = Scores({}, {}) if writing is None else write(forward, writing, process, stop_asked)
        return None if written is None else Evaluation(measured | written.metrics, written.details)
    in_order = sorted((row for part in collectives.gather(rows) for row in part), key=itemgetter(0))
    assert len(in_order) == len(planned.rows), "a row was counted twice or not at all"
    if collator.rows.texts is not None:
        in_order = joined(in_order, collator.rows.texts)
    _, predicted, true, given = zip(*in_order, strict=True)
    found = task.labelled.score(predicted, true, names)
    more: dict[str, float] = {}
    if further.metrics:  # programs of others, whose numbers are those of one process
        computed = further.compute(task.labelled, predicted, true, given, names, say) if process.is_main else {}
        more = collectives.from_main(computed)
    return Evaluation({"loss": loss_sum / all_targets} | found.metrics | more, found.details)


def rows_of(
    numbers: np.ndarray, predictions: np.ndarray, labels: np.ndarray, scores: np.ndarray | None = None
) -> Iterator[ScoredRow]:
    """(row number, prediction, label, scores) of each row of a micro-batch: one of each, or lists of those of its
    targets.

    labels: [rows] or [rows, labels]; or of tokens, where rows have -100 for those that are no targets. scores: of each
    row, None where nobody wants them.
    """
    for place, number in enumerate(numbers.tolist()):
        true = labels[place]
        kept = is_target(true) if true.ndim else ...
        given = None if scores is None else scores[place].tolist()
        yield number, predictions[place][kept].tolist(), true[kept].tolist(), given


def joined(rows: Sequence[ScoredRow], texts: np.ndarray) -> list[ScoredRow]:
    """The windows of each text as one. rows: in order. texts: the number of the text that each row is of."""
    found: dict[int, ScoredRow] = {}
    for row, predicted, true, _ in rows:
        text = int(texts[row])
        _, before, true_before, _ = found.get(text, (text, [], [], None))
        found[text] = text, before + predicted, true_before + true, None
    return list(found.values())
