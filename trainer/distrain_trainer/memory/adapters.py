"""What a low-rank adapter keeps and takes: peft's layers around frozen matrices."""

import re

from distrain_trainer.memory.forward import FP32, SIZES, Forward
from distrain_trainer.memory.model_shapes import Shapes, Weights
from distrain_trainer.settings.model import Settings

SOURCE_READERS = re.compile(r"\b(EncDecAttention|encoder_attn)\.[kv]")
"""Matrices of a decoder that read what its encoder has made of a source."""


def targets(weights: Weights, settings: Settings) -> Shapes:
    """The matrices that get an adapter."""
    wanted = settings.lora.target_modules
    linear = {name: shape for name, shape in weights.linear().items() if name not in weights.new}
    if "all-linear" in wanted:
        return linear
    return {name: shape for name, shape in linear.items() if name.split(".")[-2] in wanted}


def adapter_shapes(weights: Weights, settings: Settings) -> Shapes:
    """The matrices of a low-rank adapter, and the heads that are new and so are trained whole beside it."""
    lora = settings.lora
    assert lora.rank is not None
    shapes = {name: weights.parameters[name] for name in weights.new}
    for name, (rows, columns) in targets(weights, settings).items():
        shapes |= {f"{name}.lora_A": (lora.rank, columns), f"{name}.lora_B": (rows, lora.rank)}
        if lora.dora:
            shapes[f"{name}.magnitude"] = (rows,)
    return shapes


def adapter_inputs(forward: Forward) -> int:
    """Bytes per token that a block keeps of what its adapters read and make, beside the outputs of attention and MLP.

    As in `forward` of peft/tuners/lora/layer.py: lora_A keeps its input, cast or dropped out for itself; lora_B what
    lora_A makes of it; DoRA the results of the frozen matrix and of the adapter, which it scales. A frozen matrix keeps
    nothing. The MLP's last matrix has its input counted here and not with the MLP, so that is taken off.
    """
    weights, lora, size = forward.weights, forward.settings.lora, forward.size
    assert lora.rank is not None
    matrices = targets(weights, forward.settings)
    inside = {
        name: shape
        for name, shape in matrices.items()
        if name.startswith(weights.blocks[0]) and not SOURCE_READERS.search(name)
    }
    rows, columns = (sum(shape[side] for shape in inside.values()) for side in (0, 1))
    kept = size * lora.rank * len(inside) + (2 * size * rows if lora.dora else 0)
    if lora.dropout:
        kept += (FP32 if forward.device == "cpu" else 1) * columns
    if forward.kind == "zero3" and (forward.is_16_bit or lora.dropout):
        # LinearFunctionForZeroStage3 keeps what frozen matrices read too; adapters are given fp32.
        return kept + FP32 * columns + size * 2 * weights.hidden
    last_input = 0 if weights.activation == "relu" else weights.intermediate  # relu keeps what it makes for itself
    if forward.is_16_bit or lora.dropout:
        return kept + size * (columns - last_input)
    if any(shape[1] == weights.intermediate for shape in inside.values()):
        last_input = 0
    parts = {name.rsplit(".", 2)[0] for name, shape in inside.items() if shape[1] != weights.intermediate}
    return kept + size * (weights.hidden * min(len(parts), 2) - last_input)  # one input for attention, one for the MLP


def source_inputs(forward: Forward) -> int:
    """Bytes per token of a source that a decoder's block keeps of what its adapters read of it, and make."""
    matrices = [name for name in targets(forward.weights, forward.settings) if SOURCE_READERS.search(name)]
    each = len(matrices) // len(forward.weights.blocks)
    lora, hidden = forward.settings.lora, forward.weights.hidden
    assert lora.rank is not None
    kept = forward.size * lora.rank + (FP32 if forward.device == "cpu" else 1) * hidden * bool(lora.dropout)
    kept += forward.size * hidden if forward.is_16_bit or lora.dropout else 0  # in fp32 they share one
    return each * (kept + (2 * forward.size * hidden if lora.dora else 0))


def norm_of_weights(weights: Weights, settings: Settings) -> int:
    """Bytes that DoRA takes for a moment, to find the norm of a matrix and its adapter together.

    `get_lora_weight` of peft/tuners/lora/dora.py multiplies the adapter out from an identity matrix: a square in
    `precision` and in fp32, and the product. `get_weight_norm` then holds four matrices of the frozen one's size in
    fp32: both terms of the sum, the sum and its square.
    """
    if settings.lora.rank is None or not settings.lora.dora:
        return 0
    size = SIZES[settings.precision]

    def passing(rows: int, columns: int) -> int:
        square = columns * columns
        return size * square + max(FP32 * square + size * rows * columns, 4 * FP32 * rows * columns)

    return max(passing(rows, columns) for rows, columns in targets(weights, settings).values())
