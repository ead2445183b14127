"""Several texts in one row: which, and how such rows become a batch.

A packed row holds whole texts one after the other, at most `data.max_length` tokens of them. Each text attends to
itself alone: its positions begin at 0 again, which is what the model tells the texts apart by, and its last token
predicts nothing. Packing comes between the token rows and the plan, which sees the packed rows' lengths as any others.

    texts          a0 a1 a2 a3    b0 b1    c0         max_length 8
    input_ids      a0 a1 a2 a3 b0 b1 c0 --
    position_ids    0  1  2  3  0  1  0  0            padding is a text of its own
    labels         a1 a2 a3  - b1  -  -  -
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from distrain_trainer.bars import Advance, progress, unseen
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from distrain_trainer.data.rows import Rows

TOLD = 10_000
"""Texts that are packed between two signs of how far it is."""
PACKING = 2**31 + 1
"""Stands for the epoch where the packing is drawn: it is the same in all of them."""


@dataclass(frozen=True)
class Packing:
    """Which texts are in which packed row. (A text is a row of tokens, or a window of a long text.)

    texts: int64 [texts], the texts' numbers, one packed row after the other. starts: int64 [packed rows + 1], where
    each packed row starts in `texts`. lengths: int32 [packed rows], tokens of each.
    """

    texts: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> np.ndarray:
        """The texts of one packed row: int64 [texts]."""
        return self.texts[self.starts[number] : self.starts[number + 1]]

    def count(self, numbers: np.ndarray) -> int:
        """Texts in some packed rows. numbers: int [rows]."""
        return int((self.starts[numbers + 1] - self.starts[numbers]).sum())


def pack(lengths: np.ndarray, max_length: int, seed: int, advance: Advance = unseen) -> Packing:
    """Best fit, longest first: each text goes to the row that it fills best, or begins a new one. O(n log n).

    lengths: tokens of each text, int [texts], each at most `max_length`. The seed decides between equal lengths.
    advance: is told of texts.
    """
    assert len(lengths) and lengths.max() <= max_length, "a text is longer than a row"
    generator = np.random.Generator(np.random.PCG64([seed, PACKING]))
    order = generator.permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    spaces: list[int] = []  # ascending, those that some row has left
    having: dict[int, list[int]] = {}  # the rows that have a space left
    for number, (text, length) in enumerate(zip(order.tolist(), lengths[order].tolist(), strict=True), 1):
        if not number % TOLD:
            advance(TOLD)
        at = bisect_left(spaces, length)
        if at < len(spaces):
            left = spaces[at] - length
            row = having[spaces[at]].pop()
            if not having[spaces[at]]:
                del spaces[at]
        else:
            left, row = max_length - length, len(rows)
            rows.append([])
        rows[row].append(text)
        having.setdefault(left, []).append(row)
        if len(having[left]) == 1:
            insort(spaces, left)
    texts = np.fromiter((text for row in rows for text in row), np.int64, len(lengths))
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Packing(texts, starts, np.add.reduceat(lengths[texts], starts[:-1]).astype(np.int32))


def packing_of(settings: Settings, rows: "Rows", say: Callable[[str], None], shown: bool = False) -> Packing | None:
    """The packing of the training rows where `batch.packing` asks for one; says what it saves. shown: whether
    how far it is is shown."""
    if not settings.batch.packing:
        return None
    max_length = settings.data.max_length
    assert max_length is not None
    with progress("packing", len(rows), "texts", shown) as advance:
        packing = pack(rows.lengths, max_length, settings.seed, advance)
    empty = 1 - int(packing.lengths.sum()) / (len(packing) * max_length)
    say(
        f"packing: {len(rows):,} texts in {len(packing):,} rows of at most {max_length:,} tokens, "
        f"{empty:.1%} of them empty"
    )
    return packing


def packed_batch(rows: "Rows", packing: Packing, numbers: np.ndarray, pad_id: int) -> dict[str, np.ndarray]:
    """input_ids, labels, position_ids of some packed rows: int64 [rows, longest]. There is no attention mask.

    labels: already shifted, -100 where nothing is predicted.
    """
    shape = len(numbers), int(packing.lengths[numbers].max())
    input_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORE_INDEX, np.int64)
    position_ids = np.zeros(shape, np.int64)
    for i, number in enumerate(numbers):
        start = 0
        for text in packing[number]:
            span = slice(rows.offsets[text], rows.offsets[text + 1])
            ids = rows.input_ids[span]
            stop = start + len(ids)
            input_ids[i, start:stop] = ids
            labels[i, start : max(stop - 1, start)] = (ids if rows.labels is None else rows.labels[span])[1:]
            position_ids[i, start:stop] = np.arange(len(ids))
            start = stop
        position_ids[i, start:] = np.arange(shape[1] - start)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
