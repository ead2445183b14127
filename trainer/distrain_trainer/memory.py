"""How many bytes a training run takes on each GPU, from the settings and the shapes of the model's weights alone.

The formula is described, and compared with what was measured, in docs/memory.md. Needs neither torch nor transformers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from distrain_trainer.settings import Kind, Settings
from distrain_trainer.weights import Shapes, Weights, elements

KINDS = get_args(Kind)
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element."""

BUCKET = 200_000_000
"""Elements of a bucket that no parameter makes larger: 0.8 GB in fp32."""
PREFETCH = 50_000_000
"""Elements that zero3 fetches ahead of their use, at most."""
PERSISTENT = 100_000
"""Elements of a parameter that zero3 leaves whole, at most; or a 128th of the largest parameter, if that is less."""

SAVED_BY_ACTIVATION = {"relu": 1, "quick_gelu": 3, "gelu_new": 5, "gelu_fast": 8}
"""Tensors as wide as the MLP that its activation and what follows keep; 2 where one kernel computes it: its input and
its output."""
WHOLE_BYTES, CHUNK_BYTES = 2**30, 2**28
"""Bytes of a micro-batch's fp32 logits beyond which they are computed in chunks, and of a chunk at most."""

ROUND, MOST_TOKENS, USED = 256, 65_536, 0.9
"""`batch.tokens: auto` is a multiple of the first and at most the second; the third is the fraction of a device's
memory that a plan may fill. The rest is for the driver's context, libraries' workspace and gaps."""


def bucket_elements(parameters: int, largest: int) -> int:
    """Elements of DeepSpeed's communication bucket: all parameters, at most 200,000,000, but at least the largest one.

    parameters, largest: elements of all parameters that are trained, and of the largest of them. Rounded up to an even
    number, as DeepSpeed wants. A bucket is held in fp32, once.
    """
    bucket = max(largest, min(parameters, BUCKET), 1)
    return bucket + bucket % 2


def prefetch_elements(bucket: int) -> int:
    """Elements that zero3 fetches ahead."""
    return min(bucket, PREFETCH)


def persistent_elements(largest: int) -> int:
    """Elements of a parameter up to which zero3 leaves it whole on every process."""
    return min(largest // 128, PERSISTENT)


def chunks_for(wanted: bool | None, tokens: int, vocabulary: int) -> int:
    """In how many chunks the logits of a micro-batch are computed; 0: whole.

    wanted: `model.chunked_loss`. tokens: `batch.tokens`.
    """
    size = 4 * tokens * vocabulary
    if wanted is None:
        wanted = size > WHOLE_BYTES
    return math.ceil(size / CHUNK_BYTES) if wanted else 0


@dataclass(frozen=True)
class Bytes:
    """Bytes on each GPU at the fullest moment of a step; host: in the host's memory, for each GPU.

    optimizer: its state, and the second copy of the weights that DeepSpeed updates. buckets: what communication
    holds: buckets, and parameters that are gathered. activations: what the forward pass keeps for the backward pass,
    16-bit copies of weights among them. working: what lives for a moment beside the activations.
    """

    parameters: int
    gradients: int
    optimizer: int
    buckets: int
    activations: int
    working: int
    host: int

    @property
    def total(self) -> int:
        """Bytes on the GPU."""
        return (
            self.parameters + self.gradients + self.optimizer + self.buckets + self.activations + self.working
        )  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a model is made of under some settings. In elements, but for the bytes of what is frozen.

    largest: of the trained parameters. whole: trained and frozen elements that zero3 leaves whole.
    """

    trained: int
    frozen: int
    frozen_bytes: int
    largest: int
    whole: int


def held(weights: Weights, settings: Settings) -> Held:
    """Which parameters are trained, and how the others are held."""
    if settings.lora.rank is None:
        still = weights.frozen(settings.model.freeze)
        trained = {name: shape for name, shape in weights.parameters.items() if name not in still}
        frozen = {name: weights.parameters[name] for name in still}
        frozen_bytes = 4 * elements(frozen)
    else:
        trained = adapter(weights, settings)
        frozen = {name: shape for name, shape in weights.parameters.items() if name not in trained}
        frozen_bytes = base_bytes(frozen, weights, settings)
    sizes = [math.prod(shape) for shape in trained.values()]
    largest = max(sizes, default=0)
    small = [size for size in sizes if size <= persistent_elements(largest)]
    return Held(sum(sizes), elements(frozen), frozen_bytes, largest, sum(small))


def adapter(weights: Weights, settings: Settings) -> Shapes:
    """The matrices of a low-rank adapter, and the heads that are new and so are trained whole beside it."""
    lora = settings.lora
    assert lora.rank is not None
    shapes = {name: weights.parameters[name] for name in weights.new}
    for name, (rows, columns) in targets(weights, settings).items():
        shapes |= {f"{name}.lora_A": (lora.rank, columns), f"{name}.lora_B": (rows, lora.rank)}
        if lora.dora:
            shapes[f"{name}.magnitude"] = (rows,)
    return shapes


def targets(weights: Weights, settings: Settings) -> Shapes:
    """The matrices that get an adapter."""
    wanted = settings.lora.target_modules
    linear = {name: shape for name, shape in weights.linear().items() if name not in weights.new}
    if "all-linear" in wanted:
        return linear
    return {name: shape for name, shape in linear.items() if name.split(".")[-2] in wanted}


def base_bytes(frozen: Shapes, weights: Weights, settings: Settings) -> int:
    """Bytes of a frozen base model: of its type, or quantized within its blocks."""
    size = SIZES[settings.model.dtype or settings.precision]
    bits = settings.quantization.bits
    if bits is None:
        return size * elements(frozen)
    inner = {name: shape for name, shape in weights.linear().items() if name.startswith(weights.blocks)}
    count = elements(inner)
    if bits == 8:
        scales = 4 * sum(shape[0] for shape in inner.values())
    else:
        scales = count // 64 + count // 4096 if settings.quantization.double_quantization else count // 16
    return size * (elements(frozen) - count) + count * bits // 8 + scales


def optimizer_bytes(settings: Settings) -> float:
    """Bytes of the optimizer's state for each trained parameter."""
    if settings.optimizer.name == "adamw_8bit":
        return 2 + 8 / 256  # two moments, with a scale for each block of 256
    if settings.optimizer.name == "adamw":
        return 8
    return 4 if settings.optimizer.momentum else 0


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch. kept: from the forward to the backward pass. layer: of one block, and again where it
    is recomputed. loss, passing: what the loss keeps, and what it takes for a moment. back: what the backward pass of
    one block takes for a moment."""

    kept: int
    layer: int
    loss: int
    passing: int
    back: int


def activations(weights: Weights, settings: Settings, tokens: int, kind: str, device: str = "cuda") -> Activations:
    """The memory of a micro-batch of `tokens` padded tokens whose rows are as long as they may be.

    device: cuda or cpu, which keep dropout and attention in other ways. zero3 multiplies with a function of its own,
    which keeps what it was given and no 16-bit copy.
    """
    w, low = weights, SIZES[settings.precision]
    noise = _noise(low, device)
    casts = settings.precision != "fp32" and kind != "zero3"
    length = longest(weights, settings, tokens)
    attention, scores = _attention(w, settings, length, low, device)
    mlp = (SAVED_BY_ACTIVATION.get(w.activation, 2) + 2 * w.gated) * low * w.intermediate
    dropped = noise * w.hidden if w.dropout else 0
    layer = tokens * (
        _norms(w, settings, casts, low) + attention + mlp + 2 * dropped + _adapters(w, settings, low, noise)
    )

    head, loss, passing = _head(w, settings, tokens, low if casts else 4)
    copies, block_copies = _copies(w, settings) if casts else (0, 0)
    outer = head + tokens * (4 * w.hidden * w.encoder + dropped + 24) + 8 * w.head_size * length
    back = tokens * max(2 * low * w.intermediate + 4 * w.hidden, 2 * scores)
    if settings.model.gradient_checkpointing:
        kept = outer + loss + w.layers * 4 * w.hidden * tokens + copies - w.layers * block_copies
        return Activations(kept, layer + block_copies, loss, passing, back)
    return Activations(outer + loss + w.layers * layer + copies, 0, loss, passing, back)


def _noise(low: int, device: str) -> int:
    """Bytes of an element of a dropout mask."""
    return low if device == "cpu" else 1


def _norms(w: Weights, settings: Settings, casts: bool, low: int) -> int:
    """Bytes a token that a block's norms keep, and the matrices that read what they give."""
    frozen = settings.lora.rank is not None  # then RMSNorm keeps no normalized input
    norms = w.norms * (4 * w.hidden * (2 if w.rms and not frozen else 1) + 8)
    norms += 8 * (w.heads + w.key_value_heads) * w.head_size * w.query_norms
    readers = (1 if w.fused_attention else 3) + (1 if w.fused_gate or not w.gated else 2)
    return norms + (readers * low * w.hidden if casts else 2 * 4 * w.hidden)


def _attention(w: Weights, settings: Settings, length: int, low: int, device: str) -> tuple[int, int]:
    """Bytes a token that a block's attention keeps, and those of its scores where they are whole."""
    query, scores = w.heads * w.head_size, w.heads * length
    attention = settings.model.attention or "sdpa"
    if attention == "eager":
        kept = (4 + (low if low < 4 else 0)) * scores
        kept += (_noise(low, device) + (0 if low < 4 else low)) * scores if w.attention_dropout else 0
        return kept + 4 * low * query, low * scores
    if (
        attention == "sdpa" and w.attention_dropout and device == "cpu"
    ):  # a CPU has no kernel for it: whole scores, in fp32
        return 3 * 4 * scores + (3 * 4 + low) * query, 4 * scores
    mask = low * length if attention == "sdpa" and not settings.batch.packing else 0
    return 4 * w.heads + mask + 4 * low * query, 0


def _adapters(w: Weights, settings: Settings, low: int, noise: int) -> int:
    """Bytes a token that the adapters of a block keep beside what their matrices read."""
    rank = settings.lora.rank
    if rank is None:
        return 0
    columns = [shape[1] for name, shape in targets(w, settings).items() if name.startswith(w.blocks[0])]
    return low * rank * len(columns) + ((low + noise) * sum(columns) if settings.lora.dropout else 0)


def longest(weights: Weights, settings: Settings, tokens: int) -> int:
    """Tokens of the longest row of a micro-batch."""
    return settings.data.max_length or min(weights.positions or tokens, tokens)


def _head(w: Weights, settings: Settings, tokens: int, low: int) -> tuple[int, int, int]:
    """Bytes that the head keeps, that the loss keeps, and that the loss takes for a moment."""
    last_norm = 0 if w.encoder else 4 * w.hidden * (2 if w.rms else 1)
    if settings.task == "sequence-classification":
        return tokens * (last_norm + low * w.hidden), 0, 0
    head = tokens * (last_norm + low * w.hidden)
    if settings.task == "masked-lm":
        head += tokens * (2 * low + 4) * w.hidden
    logits = 4 * tokens * w.vocabulary
    if settings.task != "masked-lm" and chunks_for(settings.model.chunked_loss, tokens, w.vocabulary):
        return head + low * tokens * w.hidden, 0, 3 * min(CHUNK_BYTES, logits)
    return head, logits, max(2 * logits, logits + 4 * w.vocabulary * w.hidden)


def _copies(w: Weights, settings: Settings) -> tuple[int, int]:
    """Bytes of the 16-bit copies that autocast makes of fp32 matrices: of all, and of those in one block."""
    if settings.lora.rank is not None and (settings.model.dtype or settings.precision) != "fp32":
        return 0, 0
    linear = w.linear()
    inside = elements({name: shape for name, shape in linear.items() if name.startswith(w.blocks)})
    output = 0 if settings.task == "sequence-classification" else w.vocabulary * w.hidden
    return 2 * (elements(linear) + output), 2 * inside // max(len(w.blocks), 1)


def plan(weights: Weights, settings: Settings, kind: str, world: int, tokens: int, device: str = "cuda") -> Bytes:
    """Bytes a GPU under a strategy. world: processes. tokens: padded tokens of a micro-batch."""
    h, a = held(weights, settings), activations(weights, settings, tokens, kind, device)
    offload_optimizer, offload_parameters = settings.strategy.offload_optimizer, settings.strategy.offload_parameters
    shard = _share(h.trained, world)
    state = optimizer_bytes(settings)
    bucket, buckets, host = bucket_bytes(weights, settings), 0, 0
    end = 4 * h.largest
    if kind in ("single", "ddp"):
        parameters, gradients, optimizer = 4 * h.trained + h.frozen_bytes, 4 * h.trained, state * h.trained
        step = 4 * h.trained if settings.optimizer.name == "sgd" and device == "cuda" else 0
    elif kind in ("zero1", "zero2"):
        parameters, gradients, optimizer = 4 * h.trained + h.frozen_bytes, 4 * shard, (4 + state) * shard
        buckets, step = bucket, 4 * shard
        end = 4 * h.trained if kind == "zero1" else end
        if offload_optimizer:
            host, gradients, optimizer = int(optimizer) + 8 * shard, 4 * h.largest, 0
            step = 0
    elif kind == "zero3":
        parameters = 4 * shard + _share(h.frozen_bytes, world) + 4 * h.whole
        gradients, optimizer, step = 4 * shard, (4 + state) * shard, 0
        live = 4 * min(h.trained, 2 * bucket // 4 + prefetch_elements(bucket // 4))
        live += min(h.frozen_bytes, 2 * bucket)
        buckets = bucket + live
        end = bucket + bucket // world
        if offload_optimizer:
            host, gradients, optimizer = int(optimizer) + 8 * shard, 0, 0
        if offload_parameters:
            host, parameters = host + parameters - 4 * h.whole, 4 * h.whole
    elif kind == "fsdp":
        fraction = h.frozen_bytes / max(h.frozen, 1) if h.frozen else 4
        parameters, gradients, optimizer = 4 * shard + _share(h.frozen_bytes, world), 4 * shard, state * shard
        block, root = _gathered(weights, h, fraction)
        buckets, end, step = root + 3 * block, 2 * root, 0
    else:
        raise AssertionError(kind)
    fullest = max(a.kept + a.passing, a.kept - a.loss + a.layer + a.back, end, step)
    return Bytes(
        parameters=int(parameters),
        gradients=int(gradients),
        optimizer=int(optimizer),
        buckets=int(buckets),
        activations=a.kept,
        working=int(fullest) - a.kept,
        host=int(host),
    )


def bucket_bytes(weights: Weights, settings: Settings) -> int:
    """Bytes of DeepSpeed's bucket."""
    h = held(weights, settings)
    return 4 * bucket_elements(h.trained, h.largest)


def _share(whole: int, world: int) -> int:
    return -(-whole // world)


def _gathered(weights: Weights, h: Held, frozen_size: float) -> tuple[int, int]:
    """Bytes of a block that is gathered, and of all that is outside of blocks."""
    size = 4 if not h.frozen else (4 * h.trained + frozen_size * h.frozen) / (h.trained + h.frozen)
    return int(size * weights.block), int(size * weights.root)


def fits(plan: Bytes, memory: int) -> bool:
    """Whether a plan leaves enough of a device's memory free. memory: bytes of the device."""
    return plan.total <= USED * memory


def most_tokens(fitting: Callable[[int], bool], least: int) -> int:
    """The most padded tokens of a micro-batch that fit: a multiple of 256 up to 65,536, but never under `least`.

    fitting: whether a number of tokens fits; where one does, all smaller ones do.
    """
    low, high = 0, MOST_TOKENS // ROUND
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fitting(middle * ROUND) else (low, middle - 1)
    return max(low * ROUND, least)


def auto_tokens(weights: Weights, settings: Settings, kind: str, world: int, memory: int, device: str) -> int:
    """What `batch.tokens: auto` is on one device: the most that fits, and never less than `data.max_length`."""

    def fitting(tokens: int) -> bool:
        return fits(plan(weights, settings, kind, world, tokens, device), memory)

    return most_tokens(fitting, settings.data.max_length or ROUND)


def kind_of(settings: Settings, world: int) -> str:
    """The strategy that a run of `world` processes takes."""
    return settings.strategy.kind or ("ddp" if world > 1 else "single")
