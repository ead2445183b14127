"""Token rows: flat arrays, and the files that hold them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Token rows, one after the other; the arrays are mapped from files or in memory.

    input_ids: int32 [tokens]. offsets: int64 [rows + 1], where each row starts in the flat arrays.
    labels: of each row: int32 [rows], class ids; int8 [rows, labels], 0 and 1 (multi-label); float32 [rows], numbers.
    Of each token: int32 [tokens], -100 where it is no target (token-classification, causal-lm, chat). Or None where
    there are none, which for causal-lm means that the targets are the input_ids.
    words: masked-lm only, int32 [tokens], the number of the token's word in its text; -1 for tokens that are never
    masked: special tokens, and the context that a window shares with the one before. Without a fast tokenizer each
    token is its own word.
    types: of pairs only, int8 [tokens], which of its two texts a token is of, as the model counts them
    (token_type_ids); None for models that are not told.
    texts: token-classification only, int32 [rows], the number of the text that a row is a window of.
    firsts: int32 [rows], of rows of two texts the tokens of the first: the source before its target
    (sequence-to-sequence), the chosen text before the rejected one, or of kto a prompt's own answer before another
    (preference, whose rows have labels too).
    desirable: kto only, int8 [rows], 1 where the row's own answer is desirable, else 0.
    reference: preference only, fp32 [rows, 2], the log-probability of each answer before training; NaN where unknown.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    words: np.ndarray | None = None
    types: np.ndarray | None = None
    texts: np.ndarray | None = None
    firsts: np.ndarray | None = None
    desirable: np.ndarray | None = None
    reference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: int32 [rows]."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def sides(self) -> np.ndarray:
        """Tokens of each row's first and second text: int32 [rows, 2]."""
        assert self.firsts is not None
        return np.stack([self.firsts, self.lengths - self.firsts], axis=1)

    @property
    def sizes(self) -> np.ndarray:
        """What a row takes of a micro-batch: int32 [rows], or [rows, 2] where two parts of it are padded apart.

        Two answers are padded to the longer one.
        """
        if self.firsts is None:
            return self.lengths
        return self.sides if self.labels is None else 2 * self.sides.max(1)


class ArrayFiles:
    """The .npy files of one part, written piece by piece: their headers have room for the final length.

    part: begins their names. lengths: of the arrays so far.
    """

    def __init__(self, folder: Path, part: str):
        self.folder, self.part = folder, part
        self.lengths: dict[str, int] = {}
        self._open: dict[str, BinaryIO] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def __enter__(self) -> "ArrayFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for name, file in self._open.items():
            file.seek(0)
            self._header(name)
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def append(self, name: str, values: np.ndarray | list[int]) -> None:
        """Adds values to the array of a name. Those of a list are int32."""
        array = np.ascontiguousarray(values, None if isinstance(values, np.ndarray) else np.int32)
        if name not in self._open:
            self._open[name] = (self.folder / f"{self.part}.{name}.npy").open("wb")
            self.lengths[name], self._kinds[name] = 0, (array.dtype, array.shape[1:])
            self._header(name)
        assert self._kinds[name] == (array.dtype, array.shape[1:]), name
        self._open[name].write(array.tobytes())
        self.lengths[name] += len(array)

    def discard(self, name: str) -> None:
        """Removes the array of a name, if there is one."""
        if name in self._open:
            self._open.pop(name).close()
            self.lengths.pop(name)
            (self.folder / f"{self.part}.{name}.npy").unlink()

    def _header(self, name: str) -> None:
        kind, row = self._kinds[name]
        described = {"descr": kind.str, "fortran_order": False, "shape": (self.lengths[name], *row)}
        np.lib.format.write_array_header_1_0(self._open[name], described)


def mapped(folder: Path, part: str, lengths: Mapping[str, int]) -> Rows | None:
    """The rows that `ArrayFiles` has written, mapped; None where one has another length. Raises OSError, ValueError."""
    arrays = {name: np.load(folder / f"{part}.{name}.npy", mmap_mode="r") for name in lengths}
    return None if any(len(arrays[name]) != length for name, length in lengths.items()) else Rows(**arrays)
