"""Bytes of what an optimizer remembers of the trained parameters, from their shapes."""

import math

from distrain_trainer.memory.forward import FP32
from distrain_trainer.memory.model_shapes import Shapes
from distrain_trainer.settings.model import Settings

NO_HIDDEN_MATRIX = ("embed", "attention_bias")
"""Parts of names of tables that are looked up, not multiplied with, though they may stand in a block."""


def is_hidden_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon updates a parameter: a matrix of a block, whose name has the block's number."""
    numbered = any(part.isdecimal() for part in name.split("."))
    return numbered and len(shape) == 2 and not any(part in name for part in NO_HIDDEN_MATRIX)


def state_bytes(settings: Settings, trained: Shapes) -> int:
    """Bytes of the state of all trained parameters on one process that holds them whole, their average included."""
    optimizer = settings.optimizer
    count = sum(math.prod(shape) for shape in trained.values())
    average = 0 if settings.ema.decay is None else FP32 * count
    match optimizer.name:
        case "adamw":
            state = 2 * FP32 * count
        case "adamw_8bit" | "paged_adamw_8bit":
            # Two moments of one byte, each with an fp32 scale for a block of 256 (`init_state` in bitsandbytes/optim).
            state = 2 * count + 2 * FP32 * count // 256
        case "muon":
            single = sum(math.prod(shape) for name, shape in trained.items() if is_hidden_matrix(name, shape))
            state = FP32 * (single + 2 * (count - single))
        case "adafactor":
            state = FP32 * sum(map(_factored, trained.values()))
        case _:
            state = FP32 * count if optimizer.momentum else 0
    return state + average


def _factored(shape: tuple[int, ...]) -> int:
    """Elements of Adafactor's second moment: a number for each row and column of a matrix, else for each element."""
    if len(shape) < 2:
        return math.prod(shape)
    *outer, rows, columns = shape
    return math.prod(outer) * (rows + columns)
