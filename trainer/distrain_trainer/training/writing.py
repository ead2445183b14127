"""What an evaluation has the model write: the targets of some rows, which then are compared with the true ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from distrain_trainer.bars import unseen
from distrain_trainer.data.loader import EVALUATION, Collator, evaluation_batches
from distrain_trainer.data.plan import MicroBatches, cut
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Tensors
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Scores

SHOWN = 5
"""Texts that the report shows."""
DRAW = 1
"""Tells the draw of these rows from other draws under the same seed."""


@dataclass(frozen=True)
class Writing:
    """Rows whose targets are written. collator: of the evaluation rows. longest: tokens of a text at most."""

    collator: Collator
    planned: MicroBatches
    tokenizer: PreTrainedTokenizerBase
    longest: int

    @staticmethod
    def of(
        settings: Settings, collator: Collator, evaluated: MicroBatches, tokenizer: PreTrainedTokenizerBase
    ) -> "Writing | None":
        """`evaluation.generations` of the rows that are evaluated, drawn once under the seed; None where there are
        none."""
        wanted = settings.evaluation.generations
        if not settings.facts.writes or not wanted:
            return None
        rows, longest = np.sort(evaluated.rows), settings.data.max_target_length
        if wanted < len(rows):
            generator = np.random.Generator(np.random.PCG64([settings.seed, EVALUATION, DRAW]))
            rows = np.sort(generator.choice(rows, wanted, replace=False))
        sides = collator.rows.sides.copy()
        sides[:, 1] = longest
        return Writing(collator, cut(sides, rows, settings.batch.limit, samples=None), tokenizer, longest)

    def batches(self, process: ProcessRank) -> Iterator[tuple[np.ndarray, Tensors]]:
        """Row numbers and tensors of this process's share, as `evaluation_batches`, with the tokens to write."""
        for numbers, batch in evaluation_batches(self.planned, self.collator, process.rank, process.world):
            yield numbers, batch | {"new_tokens": torch.tensor(self.longest)}

    def text(self, ids: Any) -> str:
        """Tokens as text, without special ones."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def source(self, number: int) -> str:
        """The text that a row's target is written from."""
        start, first = self.collator.rows.offsets[number], self.collator.rows.sides[number, 0]
        return self.text(self.collator.rows.input_ids[start : start + first])

    def target(self, number: int) -> str:
        """A row's target as its tokens hold it."""
        stop, second = self.collator.rows.offsets[number + 1], self.collator.rows.sides[number, 1]
        return self.text(self.collator.rows.input_ids[stop - second : stop])


def write(
    forward: Callable[[Tensors], tuple[torch.Tensor, torch.Tensor]],
    writing: Writing,
    process: ProcessRank,
    stop_asked: Callable[[], bool],
    watch: Callable[[int], None] = unseen,
) -> Scores | None:
    """Metrics of the texts that the model writes, and some of them; None if a process was asked to stop. On all
    processes.

    forward: micro-batch -> (nothing, tokens), of a model in evaluation mode. watch: is told how many micro-batches are
    done.
    """
    found: list[tuple[int, str]] = []
    for done, (numbers, batch) in enumerate(writing.batches(process)):
        if collectives.total([float(stop_asked())])[0]:
            return None
        _, tokens = forward(batch)
        found += zip(numbers.tolist(), map(writing.text, tokens.tolist()), strict=False)  # an empty one has a row
        watch(done + 1)
    in_order = sorted((row for part in collectives.gather(found) for row in part), key=itemgetter(0))
    assert len(in_order) == len(writing.planned.rows), "a text was written twice or not at all"
    places, written = zip(*in_order, strict=True)
    score = TASKS[writing.collator.task].score_texts
    assert score is not None
    answers = [
        {"prompt": writing.source(places[n]), "answer": written[n], "expected": writing.target(places[n])}
        for n in np.unique(np.linspace(0, len(places) - 1, SHOWN).astype(int))
    ]
    return Scores(score(written, [writing.target(place) for place in places]), {"answers": answers})
