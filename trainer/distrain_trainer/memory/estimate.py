"""How many bytes a training run takes on each GPU, from the settings and the shapes of the model's weights alone.

The formula is described, and compared with what was measured, in docs/memory.md. Needs neither torch nor transformers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from distrain_trainer.memory.activations import SIZES, activations, targets
from distrain_trainer.memory.model_shapes import Shapes, Weights, elements
from distrain_trainer.settings.deepspeed_buckets import bucket_elements, persistent_elements, prefetch_elements
from distrain_trainer.settings.deepspeed_file import read_user_config
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Kind

KINDS = get_args(Kind)

ROUND, MOST_TOKENS, USED = 256, 65_536, 0.9
"""`batch.tokens: auto` is a multiple of the first and at most the second; the third is the fraction of a device's
memory that a plan may fill. The rest is for the driver's context, libraries' workspace and gaps."""


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


def plan(weights: Weights, settings: Settings, kind: str, world: int, tokens: int, device: str = "cuda") -> Bytes:
    """Bytes a GPU under a strategy. world: processes. tokens: padded tokens of a micro-batch."""
    h, a = held(weights, settings), activations(weights, settings, tokens, kind, device)
    offload_optimizer, offload_parameters = settings.strategy.offload_optimizer, settings.strategy.offload_parameters
    shard = _share(h.trained, world)
    state = optimizer_bytes(settings)
    bucket, buckets, host = bucket_bytes(h, settings), 0, 0
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
        own = bucket_elements(h.trained, h.largest)
        live = 4 * min(h.trained, 2 * own + prefetch_elements(own)) + min(h.frozen_bytes, 8 * own)
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


def bucket_bytes(h: Held, settings: Settings) -> int:
    """Bytes of DeepSpeed's bucket: of the size that `strategy.config` passes on, or else of distrain's own."""
    wanted = None
    if settings.strategy.config is not None:
        extra = read_user_config(settings.strategy.config).extra
        wanted = extra.get("zero_optimization", {}).get("reduce_bucket_size")
    return 4 * int(wanted or bucket_elements(h.trained, h.largest))


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
