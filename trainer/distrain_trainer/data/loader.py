"""From the plan's row numbers to the tensors of a step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from distrain_trainer.data.packing import Packing, packed_batch
from distrain_trainer.data.plan import MicroBatches, Plan, deal
from distrain_trainer.data.preferences import preference_batch
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.targets import target_batch
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.tasks import FACTS, Task
from distrain_trainer.tasks.labels import IGNORE_INDEX, is_target
from distrain_trainer.tasks.table import TASKS

EVALUATION = 2**31
"""Stands for the epoch where evaluation draws its masks, so that they are the same at each evaluation."""


@dataclass(frozen=True)
class Collator:
    """Turns rows into padded tensors, and draws the masks of masked-lm.

    What is random about a row is drawn from (seed, epoch, row number): the same whatever batch or process it is in.
    packing: where there is one, the rows to turn into tensors are packed ones, by their numbers. weights: of classes.
    """

    rows: Rows
    task: Task
    seed: int
    pad_id: int
    mask_id: int
    vocabulary: int
    mask_fraction: float
    mask_whole_words: bool
    packing: Packing | None = None
    weights: tuple[float, ...] | None = None

    @staticmethod
    def of(
        settings: Settings,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        packing: Packing | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> "Collator":
        """The collator of some rows, as the settings and the tokenizer want it."""
        if settings.facts.target == "masked-token" and tokenizer.mask_token_id is None:
            raise SettingsError(f"the tokenizer of {settings.model.name} has no mask token; masked-lm needs one")
        return Collator(
            rows,
            settings.task,
            settings.seed,
            pad_id=tokenizer.pad_token_id,
            mask_id=-1 if tokenizer.mask_token_id is None else tokenizer.mask_token_id,
            vocabulary=len(tokenizer),
            mask_fraction=settings.data.mask_fraction,
            mask_whole_words=settings.data.mask_whole_words,
            packing=packing,
            weights=weights,
        )

    def __call__(self, numbers: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, token_type_ids of pairs: int64 [rows, longest]; labels: int64 [rows] or [rows,
        longest], of targets as long as the longest of them.

        Of packed rows position_ids in place of attention_mask.
        """
        if self.packing is not None:
            packed = packed_batch(self.rows, self.packing, numbers, self.pad_id)
            return {name: torch.from_numpy(array) for name, array in packed.items()}
        rows, target = self.rows, FACTS[self.task].target
        if FACTS[self.task].writes or FACTS[self.task].compares:
            of_two = target_batch if FACTS[self.task].writes else preference_batch
            return {name: torch.from_numpy(array) for name, array in of_two(rows, numbers, self.pad_id).items()}
        arrays = padded(rows, numbers, self.pad_id)
        input_ids = arrays["input_ids"]
        shape = input_ids.shape
        labels = self._none(shape)
        if target == "row" and rows.labels is not None:
            labels[:] = rows.labels[numbers]
        for i, number in enumerate(numbers if target != "row" else ()):
            span = slice(rows.offsets[number], rows.offsets[number + 1])
            ids = input_ids[i, : span.stop - span.start]
            if target == "masked-token":
                assert rows.words is not None
                labels[i, : len(ids)] = self._mask(ids, rows.words[span], epoch, int(number))
            else:
                labels[i, : len(ids)] = ids if rows.labels is None else rows.labels[span]
        if target == "next-token":
            labels = np.concatenate([labels[:, 1:], np.full((shape[0], 1), IGNORE_INDEX)], axis=1)
        return {name: torch.from_numpy(array) for name, array in (arrays | {"labels": labels}).items()}

    def empty(self) -> dict[str, torch.Tensor]:
        """A micro-batch of weight 0: one row of one token without a target, or two of them where texts are compared."""
        rows = 2 if FACTS[self.task].compares else 1
        batch = {name: torch.zeros(rows, 1, dtype=torch.int64) for name in ("input_ids", "attention_mask", "labels")}
        batch["attention_mask"] += 1
        if FACTS[self.task].compares:
            batch |= {"reference": torch.zeros(rows), "chosen_tokens": torch.ones(())}
        if self.rows.desirable is not None:
            batch["desirable"] = torch.zeros(1, dtype=torch.int64)
        if self.rows.types is not None:
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
        batch["labels"] = torch.from_numpy(self._none((rows, 1)))
        if self.packing is not None:
            batch["position_ids"] = torch.zeros_like(batch.pop("attention_mask"))
        return batch

    def _none(self, shape: tuple[int, ...]) -> np.ndarray:
        """Labels that are no targets, of the type and for each row of the shape that labels have. shape: of tokens."""
        labels = self.rows.labels
        if FACTS[self.task].target != "row" or labels is None:
            return np.full(shape if FACTS[self.task].target != "row" else shape[:1], IGNORE_INDEX, np.int64)
        if labels.dtype.kind == "f":
            return np.full((shape[0], *labels.shape[1:]), np.nan, np.float32)
        return np.full((shape[0], *labels.shape[1:]), IGNORE_INDEX, np.int64)

    def targets(self, labels: torch.Tensor) -> float:
        """Valid targets of a micro-batch; where classes have weights, the sum of theirs; where texts are compared, its
        pairs."""
        labelled = TASKS[self.task].labelled
        if FACTS[self.task].compares:
            return int(is_target(labels).any(1).sum()) // 2
        if self.weights is None:
            return int(is_target(labels).sum())
        assert labelled is not None and labelled.weigh is not None
        return float(labelled.weigh(labels, torch.tensor(self.weights, dtype=torch.float64)))

    def shared(self, numbers: np.ndarray) -> dict[str, torch.Tensor]:
        """What the micro-batches of a step know of all its rows; of texts that are compared `chosen_tokens`: fp32, the
        tokens that the chosen ones are predicted in, on average."""
        if not FACTS[self.task].compares:
            return {}
        return {"chosen_tokens": torch.tensor(max(float((self.rows.sides[numbers, 0] - 1).mean()), 1.0))}

    def tokens(self, numbers: np.ndarray) -> int:
        """Tokens in some rows."""
        return int((self.rows.lengths if self.packing is None else self.packing.lengths)[numbers].sum())

    def forward_only(self, numbers: np.ndarray) -> int:
        """Tokens of some rows that only go forwards: of judged answers those to other prompts, with their prompts."""
        return 0 if self.rows.desirable is None else int(self.rows.sides[numbers, 1].sum())

    def samples(self, numbers: np.ndarray) -> int:
        """Samples in some rows."""
        return len(numbers) if self.packing is None else self.packing.count(numbers)

    def texts(self, numbers: np.ndarray) -> int:
        """Texts in some rows: a sample is one, or two where texts are compared."""
        return self.samples(numbers) * (2 if FACTS[self.task].compares else 1)

    def _mask(self, ids: np.ndarray, words: np.ndarray, epoch: int, number: int) -> np.ndarray:
        """Hides tokens in place, as BERT does: of those chosen 80 % become [MASK], 10 % a random token, 10 % stay.

        words: the word each token belongs to, -1 where a token is never a target. Exactly
        max(1, round(mask_fraction x n)) of the n words or tokens are chosen.
        """
        labels = np.full(len(ids), IGNORE_INDEX, np.int64)
        units = np.unique(words[words >= 0]) if self.mask_whole_words else np.flatnonzero(words >= 0)
        if not len(units):
            return labels
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch, number]))
        chosen = generator.choice(units, max(1, round(self.mask_fraction * len(units))), replace=False)
        positions = np.flatnonzero(np.isin(words, chosen)) if self.mask_whole_words else np.sort(chosen)
        labels[positions] = ids[positions]
        fate = generator.random(len(positions))
        ids[positions[fate < 0.8]] = self.mask_id
        swapped = positions[fate >= 0.9]
        ids[swapped] = generator.integers(self.vocabulary, size=len(swapped))
        return labels


def padded(rows: Rows, numbers: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and, of pairs, token_type_ids of some rows: int64 [rows, longest]."""
    shape = len(numbers), max(int(rows.lengths[numbers].max()), 1) if len(numbers) else 1
    arrays = {"input_ids": np.full(shape, pad_id, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    if rows.types is not None:
        arrays["token_type_ids"] = np.zeros(shape, np.int64)
    for i, number in enumerate(numbers):
        span = slice(rows.offsets[number], rows.offsets[number + 1])
        length = span.stop - span.start
        arrays["input_ids"][i, :length] = rows.input_ids[span]
        arrays["attention_mask"][i, :length] = 1
        if rows.types is not None:
            arrays["token_type_ids"][i, :length] = rows.types[span]
    return arrays


@dataclass(frozen=True)
class StepBatch:
    """What one process trains on in one step.

    indices: number within the epoch of each micro-batch, which seeds its dropout; -1 for an empty one.
    micro_batches: tensors by name. targets: valid targets of this process, or the sum of their weights.
    samples, texts, tokens, forward_only, padded_tokens: of the whole step, over all processes. texts: which the model
    reads one by one. forward_only: those of `tokens` that nothing is learned from.
    """

    epoch: int
    indices: list[int]
    micro_batches: list[dict[str, torch.Tensor]]
    targets: float
    samples: int
    texts: int
    tokens: int
    forward_only: int
    padded_tokens: int

    def pin_memory(self) -> "StepBatch":
        """The same with tensors in pinned memory, from which they are copied to a GPU while it computes. DataLoader
        calls this where it is asked to pin."""
        pinned = [{name: tensor.pin_memory() for name, tensor in batch.items()} for batch in self.micro_batches]
        return replace(self, micro_batches=pinned)


class StepDataset(torch.utils.data.Dataset[StepBatch]):
    """Step number -> the part of that step which `rank` of `world` takes."""

    def __init__(self, plan: Plan, collator: Collator, rank: int, world: int):
        self.plan, self.collator, self.rank, self.world = plan, collator, rank, world

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, number: int) -> StepBatch:
        step, slots = self.plan.step(number), self.plan.slots(self.world)
        assigned = [step.indices[i] for i in deal(step.costs, self.world, slots)[self.rank]]
        micro_batches = [self.collator(step.planned[i], step.epoch) for i in assigned]
        missing = slots - len(assigned)
        micro_batches += [self.collator.empty()] * missing
        shared = self.collator.shared(step.rows)
        micro_batches = [batch | shared for batch in micro_batches]
        return StepBatch(
            epoch=step.epoch,
            indices=assigned + [-1] * missing,
            micro_batches=micro_batches,
            targets=sum(self.collator.targets(batch["labels"]) for batch in micro_batches),
            samples=self.collator.samples(step.rows),
            texts=self.collator.texts(step.rows),
            tokens=self.collator.tokens(step.rows),
            forward_only=self.collator.forward_only(step.rows),
            padded_tokens=int(step.costs.sum()),
        )


def steps(dataset: StepDataset, start: int, workers: int) -> Iterator[StepBatch]:
    """The steps from `start` to the last, prepared ahead by `workers` processes; their number changes no batch."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, len(dataset)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def evaluation_batches(
    planned: MicroBatches, collator: Collator, rank: int, world: int
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Row numbers and tensors of this process's share; every process gets equally many, some of them empty."""
    slots = -(-len(planned) // world)
    assigned = deal(planned.costs, world, slots)[rank]
    shared = collator.shared(planned.rows)
    for index in assigned:
        yield planned[index], collator(planned[index], EVALUATION) | shared
    for _ in range(slots - len(assigned)):
        yield np.zeros(0, np.int64), collator.empty() | shared
