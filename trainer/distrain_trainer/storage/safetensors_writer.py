"""One safetensors file, written one tensor at a time and hashed while it is written.

The library's own writer takes all tensors at once; a checkpoint gathers one full parameter after another and keeps
none. The format: 8 bytes with the header's length, a JSON header, the bytes of the tensors. Files are read with the
library.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class WrittenFile:
    """A file that is complete and durable. size: bytes. sha256: of its content."""

    size: int
    sha256: str


class SafetensorsWriter:
    """Writes a file whose tensors arrive in the declared order.

    declared: (name, dtype, shape) of each tensor. Raises OSError. After an error the file is closed as it is.
    """

    def __init__(self, path: Path, declared: Iterable[tuple[str, torch.dtype, torch.Size]]):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, dtype, shape in declared:
            start, end = end, end + shape.numel() * dtype.itemsize
            header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._hash = hashlib.sha256()
        self._file = path.open("wb")
        self._append(len(text).to_bytes(8, "little") + text)

    def append(self, tensor: torch.Tensor) -> None:
        """Writes the next tensor."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._append(flat.view(torch.uint8).numpy().data)

    def close(self) -> WrittenFile:
        """Makes the file durable."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            return WrittenFile(self._file.tell(), self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
