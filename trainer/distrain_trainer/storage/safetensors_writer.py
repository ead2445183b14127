"""One safetensors file, written a tensor at a time and hashed on the way.

The library's own writer wants all tensors at once; a checkpoint gathers one full parameter after another and keeps
none. The format: 8 bytes of header length, a JSON header, the tensors' bytes. Files are read with the library.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class Written:
    """What is known of a whole file. size: bytes. sha256: of its content."""

    size: int
    sha256: str


class SafetensorsFile:
    """A file that takes its tensors in the announced order.

    announced: (name, dtype, shape) of each tensor. Raises OSError where the disk does. Left open by an error, the file
    is closed as it is.
    """

    def __init__(self, path: Path, announced: Iterable[tuple[str, torch.dtype, torch.Size]]):
        header: dict = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, dtype, shape in announced:
            start, end = end, end + shape.numel() * dtype.itemsize
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._hash = hashlib.sha256()
        self._file = path.open("wb")
        self._append(len(text).to_bytes(8, "little") + text)

    def append(self, tensor: torch.Tensor) -> None:
        """The next tensor."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._append(flat.view(torch.uint8).numpy().data)

    def close(self) -> Written:
        """Makes the file durable."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            return Written(self._file.tell(), self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
