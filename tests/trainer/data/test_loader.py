"""From rows to tensors: nothing random depends on the batch or the process that a row is in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrain_trainer.data.loader import Collator, StepBatch, StepDataset, evaluation_batches, steps
from distrain_trainer.data.plan import Plan, cut
from distrain_trainer.data.rows import Rows
from distrain_trainer.tasks.labels import IGNORE_INDEX

LENGTHS = np.random.default_rng(5).integers(3, 40, 80)


def some_rows() -> Rows:
    """80 rows, each [CLS] words of one or two tokens [SEP]."""
    draw = np.random.default_rng(6)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = draw.integers(10, 100, offsets[-1]).astype(np.int32)
    words = np.concatenate([[-1, *(np.arange(n - 2) // 2), -1] for n in LENGTHS]).astype(np.int32)
    return Rows(ids, offsets, draw.integers(0, 3, 80).astype(np.int32), words)


@pytest.fixture(scope="module")
def masking() -> Collator:
    return Collator(some_rows(), "masked-lm", 1, pad_id=0, mask_id=4, vocabulary=100, mask_fraction=0.15,
                    mask_whole_words=False)  # fmt: skip


def row_of(batch: dict[str, torch.Tensor], place: int) -> dict[str, list[int]]:
    length = int(batch["attention_mask"][place].sum())
    return {name: tensor[place, :length].tolist() for name, tensor in batch.items()}


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_rows_mask_is_its_own_whatever_batch_it_is_in(masking: Collator, whole_words: bool) -> None:
    collator = replace(masking, mask_whole_words=whole_words)
    alone = [row_of(collator(np.array([number]), 3), 0) for number in range(80)]
    numbers = np.random.default_rng(1).permutation(80)
    together = collator(numbers, 3)
    assert [row_of(together, place) for place in range(80)] == [alone[number] for number in numbers]


def test_masks_change_from_epoch_to_epoch_and_with_the_seed(masking: Collator) -> None:
    numbers = np.arange(80)
    first = masking(numbers, 0)["labels"]
    assert not torch.equal(first, masking(numbers, 1)["labels"])
    assert not torch.equal(first, replace(masking, seed=2)(numbers, 0)["labels"])


def test_masks_are_as_bert_draws_them(masking: Collator) -> None:
    masked = hidden = kept = targets = 0
    for epoch in range(60):
        batch = masking(np.arange(80), epoch)
        chosen = batch["labels"] != IGNORE_INDEX
        targets += int(chosen.sum())
        masked += int(chosen.sum())
        hidden += int((batch["input_ids"][chosen] == 4).sum())
        kept += int((batch["input_ids"][chosen] == batch["labels"][chosen]).sum())
    assert hidden / masked == pytest.approx(0.8, abs=0.02)
    assert kept / masked == pytest.approx(0.1, abs=0.02)
    expected = sum(max(1, round(0.15 * (n - 2))) for n in LENGTHS)
    assert targets == 60 * expected


def test_special_tokens_are_never_targets(masking: Collator) -> None:
    for number, length in enumerate(LENGTHS):
        labels = masking(np.array([number]), 0)["labels"][0]
        assert labels[0] == IGNORE_INDEX and labels[length - 1] == IGNORE_INDEX


def test_whole_words_are_masked_together(masking: Collator) -> None:
    collator = replace(masking, mask_whole_words=True)
    for number, length in enumerate(LENGTHS):
        chosen = (collator(np.array([number]), 0)["labels"][0] != IGNORE_INDEX).numpy()
        assert collator.rows.words is not None
        words = collator.rows.words[collator.rows.offsets[number] :][:length]
        for word in set(words[chosen]):
            assert chosen[words == word].all()


def test_a_causal_row_predicts_its_next_token() -> None:
    collator = Collator(some_rows(), "causal-lm", 1, 0, -1, 100, 0.15, False)
    collator = replace(collator, rows=replace(collator.rows, labels=None))
    batch = collator(np.array([0, 1]), 0)
    length = LENGTHS[0]
    assert batch["labels"][0, : length - 1].tolist() == batch["input_ids"][0, 1:length].tolist()
    assert (batch["labels"][0, length - 1 :] == IGNORE_INDEX).all()


@given(st.integers(1, 7), st.integers(1, 7))
def test_all_processes_get_equally_many_and_together_the_whole_step(micro_batches: int, world: int) -> None:
    rows = some_rows()
    collator = Collator(rows, "sequence-classification", 1, 0, -1, 100, 0.15, False)
    plan = Plan(rows.lengths, 1, 64, None, micro_batches, epochs=1)
    parts = [StepDataset(plan, collator, rank, world) for rank in range(world)]
    for number in range(plan.steps):
        batches = [part[number] for part in parts]
        assert {len(batch.micro_batches) for batch in batches} == {plan.slots(world)}
        assert sum(batch.targets for batch in batches) == batches[0].samples == len(plan.step(number).rows)
        dealt = sorted(index for batch in batches for index in batch.indices if index >= 0)
        assert dealt == list(plan.step(number).indices)


class Page(torch.Tensor):
    """A tensor that remembers whether it is pinned, which needs a GPU otherwise."""

    pinned = False

    def pin_memory(self, device: object = None) -> "Page":
        copy = self.clone().as_subclass(Page)
        copy.pinned = True
        return copy


def test_pinning_a_step_pins_each_of_its_tensors_and_changes_nothing_else() -> None:
    micro_batches: list[dict[str, torch.Tensor]] = [
        {name: torch.tensor([n]).as_subclass(Page) for name in ("input_ids", "labels")} for n in (1, 2)
    ]
    step = StepBatch(0, [4, 5], micro_batches, targets=2, samples=2, texts=2, tokens=2, forward_only=0, padded_tokens=3)
    pinned = step.pin_memory()
    tensors = [tensor for batch in pinned.micro_batches for tensor in batch.values()]
    assert [getattr(tensor, "pinned", False) for tensor in tensors] == [True] * 4
    assert [int(tensor) for tensor in tensors] == [1, 1, 2, 2]
    assert replace(pinned, micro_batches=[]) == replace(step, micro_batches=[])


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_come_in_pinned_memory_where_there_is_a_gpu(workers: int) -> None:
    rows = some_rows()
    collator = Collator(rows, "sequence-classification", 1, 0, -1, 100, 0.15, False)
    dataset = StepDataset(Plan(rows.lengths, 1, 64, None, 2, epochs=1), collator, rank=0, world=1)
    first = next(steps(dataset, 0, workers))
    assert {t.is_pinned() for batch in first.micro_batches for t in batch.values()} == {torch.cuda.is_available()}


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_deals_every_row_once_and_equal_forwards(world: int) -> None:
    rows = some_rows()
    collator = Collator(rows, "sequence-classification", 1, 0, -1, 100, 0.15, False)
    planned = cut(rows.lengths, np.arange(80), 64, None)
    parts = [list(evaluation_batches(planned, collator, rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(number for part in parts for numbers, _ in part for number in numbers) == list(range(80))
