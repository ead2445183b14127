"""How many bytes a micro-batch's activations take, from the settings and the shapes of the model's weights alone.

The formula is described, and compared with what was measured, in docs/memory.md. Needs neither torch nor transformers.
"""

import math
from dataclasses import dataclass

from distrain_trainer.memory.model_shapes import Shapes, Weights, elements
from distrain_trainer.settings.model import Settings

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element."""

SAVED_BY_ACTIVATION = {"relu": 1, "quick_gelu": 3, "gelu_new": 5, "gelu_fast": 8}
"""Tensors as wide as the MLP that its activation and what follows keep; 2 where one kernel computes it: its input and
its output."""
WHOLE_BYTES, CHUNK_BYTES = 2**30, 2**28
"""Bytes of a micro-batch's fp32 logits beyond which they are computed in chunks, and of a chunk at most."""


def chunks_for(wanted: bool | None, tokens: int, vocabulary: int) -> int:
    """In how many chunks the logits of a micro-batch are computed; 0: whole.

    wanted: `model.chunked_loss`. tokens: `batch.tokens`.
    """
    size = 4 * tokens * vocabulary
    if wanted is None:
        wanted = size > WHOLE_BYTES
    return math.ceil(size / CHUNK_BYTES) if wanted else 0


def longest(weights: Weights, settings: Settings, tokens: int) -> int:
    """Tokens of the longest row of a micro-batch."""
    return settings.data.max_length or min(weights.positions or tokens, tokens)


def targets(weights: Weights, settings: Settings) -> Shapes:
    """The matrices that get an adapter."""
    wanted = settings.lora.target_modules
    linear = {name: shape for name, shape in weights.linear().items() if name not in weights.new}
    if "all-linear" in wanted:
        return linear
    return {name: shape for name, shape in linear.items() if name.split(".")[-2] in wanted}


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch. kept: from the forward to the backward pass. layer: of one block, and again where it
    is recomputed. loss, passing: what the loss keeps, and what it takes for a moment. back: what one block takes for a
    moment, of its backward pass and of its adapters' norms."""

    kept: int
    layer: int
    loss: int
    passing: int
    back: int


def activations(weights: Weights, settings: Settings, tokens: int, kind: str, device: str = "cuda") -> Activations:
    """The memory of a micro-batch of `tokens` padded tokens whose rows are as long as they may be.

    device: cuda or cpu, which keep dropout, attention and LayerNorm in other ways. zero3 multiplies with a function of
    its own, which keeps what it was given and no 16-bit copy.
    """
    w, low = weights, SIZES[settings.precision]
    noise = low if device == "cpu" else 1  # bytes of an element of a dropout mask
    casts = settings.precision != "fp32" and kind != "zero3"
    length = longest(weights, settings, tokens)
    skipped, bottom = _untouched(w, settings)
    stream = _stream(w, settings, device)
    norm = 4 if w.rms or device != "cpu" else stream
    attention, scores = _attention(w, settings, length, low, device)
    mlp = (SAVED_BY_ACTIVATION.get(w.activation, 2) + 2 * w.gated) * low * w.intermediate
    dropped = noise * w.hidden if w.dropout else 0
    layer = tokens * (
        _norms(w, settings, norm) + _read(w, settings, low, kind, device) + attention + mlp + 2 * dropped
    )  # fmt: skip

    head, loss, passing = _head(w, settings, tokens, low if casts else 4, norm, kind)
    copies, block_copies = _copies(w, settings, casts, skipped)
    outer = head + tokens * (bottom * (4 * w.hidden * w.encoder + dropped) + 24) + 8 * w.head_size * length
    back = max(tokens * max(2 * low * w.intermediate + 4 * w.hidden, 2 * scores), _norm_of_weights(w, settings))
    layers, reached = w.layers, w.layers * (len(w.blocks) - skipped) // len(w.blocks)
    if settings.model.gradient_checkpointing:  # which keeps what every block is given, whether it is trained or not
        kept = outer + loss + layers * stream * w.hidden * tokens + copies - reached * block_copies
        return Activations(kept, layer + block_copies, loss, passing, back)
    return Activations(outer + loss + reached * layer + copies, 0, loss, passing, back)


def _untouched(w: Weights, settings: Settings) -> tuple[int, bool]:
    """How many of the first blocks no gradient reaches, since they and all before them are frozen; and whether what is
    before the blocks is trained. What is neither an embedding nor known to follow the blocks counts as before them."""
    if settings.lora.rank is not None:  # beside checkpoints peft asks for the gradient of the embedding's output
        return 0, settings.model.gradient_checkpointing
    trained = w.parameters.keys() - w.frozen(settings.model.freeze)
    if any(not w.follows(name) for name in trained):
        return 0, True
    first = (n for n, prefix in enumerate(w.blocks) if any(name.startswith(prefix) for name in trained))
    return next(first, len(w.blocks)), False


def _stream(w: Weights, settings: Settings, device: str) -> int:
    """Bytes of an element of what a block hands to the next: that of the embedding, or of LayerNorm at its end."""
    if settings.lora.rank is None or (w.encoder and device != "cpu"):
        return 4
    return SIZES[settings.model.dtype or settings.precision]


def _norms(w: Weights, settings: Settings, norm: int) -> int:
    """Bytes a token that a block's norms keep. norm: of an element of their inputs."""
    frozen = settings.lora.rank is not None  # then RMSNorm keeps no normalized input
    kept = w.norms * (norm * w.hidden * (2 if w.rms and not frozen else 1) + 8)
    return kept + 8 * (w.heads + w.key_value_heads) * w.head_size * w.query_norms


def _read(w: Weights, settings: Settings, low: int, kind: str, device: str) -> int:
    """Bytes a token that a block keeps of what its matrices read, beside the outputs of attention and MLP.

    With adapters: what these read, each for itself where it is cast or dropped out, and what they make of it. The MLP's
    last matrix then has its input counted here and not there.
    """
    lora = settings.lora
    if lora.rank is None:
        readers = (1 if w.fused_attention else 3) + (1 if w.fused_gate or not w.gated else 2)
        return readers * low * w.hidden if low < 4 and kind != "zero3" else 2 * 4 * w.hidden
    inside = {name: shape for name, shape in targets(w, settings).items() if name.startswith(w.blocks[0])}
    rows, columns = (sum(shape[side] for shape in inside.values()) for side in (0, 1))
    kept = low * lora.rank * len(inside) + (2 * low * rows if lora.dora else 0)
    if lora.dropout:
        kept += (4 if device == "cpu" else 1) * columns
    if kind == "zero3" and (low < 4 or lora.dropout):  # what frozen matrices read too; adapters are given fp32
        return kept + 4 * columns + low * 2 * w.hidden
    product = 0 if w.activation == "relu" else w.intermediate  # relu keeps what it makes for itself
    if low < 4 or lora.dropout:
        return kept + low * (columns - product)
    if any(shape[1] == w.intermediate for shape in inside.values()):
        product = 0
    parts = {name.rsplit(".", 2)[0] for name, shape in inside.items() if shape[1] != w.intermediate}
    return kept + low * (w.hidden * min(len(parts), 2) - product)


def _attention(w: Weights, settings: Settings, length: int, low: int, device: str) -> tuple[int, int]:
    """Bytes a token that a block's attention keeps, and those of its scores where they are whole."""
    query, scores = w.heads * w.head_size, w.heads * length
    attention = settings.model.attention or "sdpa"
    if attention == "eager":
        kept = (4 + (low if low < 4 else 0)) * scores
        kept += ((low if device == "cpu" else 1) + (0 if low < 4 else low)) * scores if w.attention_dropout else 0
        return kept + 4 * low * query, low * scores
    if (
        attention == "sdpa" and w.attention_dropout and device == "cpu"
    ):  # a CPU has no kernel for it: whole scores, in fp32
        return 3 * 4 * scores + (3 * 4 + low) * query, 4 * scores
    mask = low * length if attention == "sdpa" else 0
    return 4 * w.heads + mask + 4 * low * query, 0


def _head(w: Weights, settings: Settings, tokens: int, low: int, norm: int, kind: str) -> tuple[int, int, int]:
    """Bytes that the head keeps, that the loss keeps, and that the loss takes for a moment."""
    frozen = settings.lora.rank is not None  # but for a head that is new
    last_norm = 0 if w.encoder else norm * w.hidden * (2 if w.rms and not frozen else 1)
    if settings.task == "sequence-classification":
        return tokens * (last_norm + low * w.hidden), 0, 0
    head = tokens * (last_norm + (0 if frozen and kind != "zero3" else low * w.hidden))
    if settings.task == "masked-lm":
        head += tokens * (2 * low + 4) * w.hidden
    logits = 4 * tokens * w.vocabulary
    if settings.task != "masked-lm" and chunks_for(settings.model.chunked_loss, tokens, w.vocabulary):
        return head + low * tokens * w.hidden, 0, 3 * min(CHUNK_BYTES, logits)
    return head, logits, max(2 * logits, logits + 4 * w.vocabulary * w.hidden)


def _copies(w: Weights, settings: Settings, casts: bool, skipped: int) -> tuple[int, int]:
    """Bytes of the copies of matrices that are kept: of all, and of those in one block.

    autocast makes them of fp32 matrices. DoRA with dropout multiplies once more with every matrix, in another type.
    """
    lora, held = settings.lora, SIZES[settings.model.dtype or settings.precision]
    if lora.rank is not None and (held < 4 or settings.quantization.bits):
        if not (lora.dora and lora.dropout):
            return 0, 0
        linear, size, output = targets(w, settings), SIZES[settings.precision], 0
    elif casts:
        linear, size = w.linear(), 2
        output = 0 if settings.task == "sequence-classification" else w.vocabulary * w.hidden
    else:
        return 0, 0
    inside = elements({name: shape for name, shape in linear.items() if name.startswith(w.blocks)})
    block = inside // len(w.blocks)
    return size * (elements(linear) + output - skipped * block), size * block


def _norm_of_weights(w: Weights, settings: Settings) -> int:
    """Bytes that DoRA takes for a moment, to find the norm of a matrix and its adapter together."""
    if settings.lora.rank is None or not settings.lora.dora:
        return 0
    low = SIZES[settings.precision]
    return max(low * n * n + max(4 * n * n + low * m * n, 16 * m * n) for m, n in targets(w, settings).values())
