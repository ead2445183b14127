"""How many bytes a training run takes on each GPU, from the settings and the shapes of the model's weights alone.

The formula is described, and compared with what was measured, in docs/memory.md. Needs neither torch nor transformers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from distrain_trainer.memory.activations import activations, at_once
from distrain_trainer.memory.adapters import adapter_shapes
from distrain_trainer.memory.forward import FP32, SIZES
from distrain_trainer.memory.model_shapes import Shapes, Weights, elements
from distrain_trainer.memory.optimizer_state import state_bytes
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

    largest: of the trained parameters. whole: trained and frozen elements that zero3 leaves whole. state: bytes of the
    optimizer's state.
    """

    trained: int
    frozen: int
    frozen_bytes: int
    largest: int
    whole: int
    state: int


def held(weights: Weights, settings: Settings) -> Held:
    """Which parameters are trained, and how the others are held."""
    if settings.lora.rank is None:
        still = weights.frozen(settings.model.freeze)
        trained = {name: shape for name, shape in weights.parameters.items() if name not in still}
        frozen = {name: weights.parameters[name] for name in still}
        frozen_bytes = FP32 * elements(frozen)
    else:
        trained = adapter_shapes(weights, settings)
        frozen = {name: shape for name, shape in weights.parameters.items() if name not in trained}
        frozen_bytes = base_bytes(frozen, weights, settings)
    sizes = [math.prod(shape) for shape in trained.values()]
    largest = max(sizes, default=0)
    small = [size for size in sizes if size <= persistent_elements(largest)]
    state = state_bytes(settings, trained)
    return Held(sum(sizes), elements(frozen), frozen_bytes, largest, sum(small), state)


def base_bytes(frozen: Shapes, weights: Weights, settings: Settings) -> int:
    """Bytes of a frozen base model: of its type, or quantized within its blocks.

    bitsandbytes keeps one fp32 scale for each row in 8 bits (`Int8Params.SCB`), and in 4 bits one for each 64 weights;
    quantized twice these are one byte each, with an fp32 scale for each 256 of them (`quantize_4bit`).
    """
    size = SIZES[settings.model.dtype or settings.precision]
    bits = settings.quantization.bits
    if bits is None:
        return size * elements(frozen)
    inner = {name: shape for name, shape in weights.linear().items() if name.startswith(weights.all_blocks)}
    count = elements(inner)
    if bits == 8:
        scales = FP32 * sum(shape[0] for shape in inner.values())
    elif settings.quantization.double_quantization:
        scales = count // 64 + FP32 * count // (64 * 256)
    else:
        scales = FP32 * count // 64
    return size * (elements(frozen) - count) + count * bits // 8 + scales


@dataclass(frozen=True)
class State:
    """What a strategy holds whatever the micro-batch, in bytes. passing: what the end of a backward pass or the update
    takes for a moment, when the activations are gone."""

    parameters: float
    gradients: float
    optimizer: float
    buckets: float
    passing: float
    host: float = 0


def plan(weights: Weights, settings: Settings, kind: str, world: int, tokens: int, device: str = "cuda") -> Bytes:
    """Bytes per GPU under a strategy. world: processes. tokens: padded tokens of a micro-batch."""
    sizes = held(weights, settings)
    if kind in ("single", "ddp"):
        state = _replica(sizes, settings, device)
    elif kind in ("zero1", "zero2"):
        state = _zero(sizes, settings, kind, world)
    elif kind == "zero3":
        state = _zero3(sizes, settings, world)
    else:
        assert kind == "fsdp", kind
        state = _fsdp(sizes, settings, world, weights)
    batch = activations(weights, settings, at_once(settings, tokens), kind, device)
    return Bytes(
        parameters=int(state.parameters),
        gradients=int(state.gradients),
        optimizer=int(state.optimizer),
        buckets=int(state.buckets),
        activations=batch.kept,
        working=int(max(batch.forward, batch.backward, state.passing)) - batch.kept,
        host=int(state.host),
    )


def _replica(sizes: Held, settings: Settings, device: str) -> State:
    """Everything on every process; DDP's buckets are the gradients themselves.

    torch's SGD updates all parameters at once on a GPU (`_multi_tensor_sgd`), from a copy of their gradients.
    """
    whole = FP32 * sizes.trained
    update = whole if settings.optimizer.name == "sgd" and device == "cuda" else 0
    if settings.optimizer.name == "muon":
        update = 3 * FP32 * sizes.largest  # the update in fp32, and what it is made of in bf16 (`muon`)
    return State(
        parameters=whole + sizes.frozen_bytes,
        gradients=whole,
        optimizer=sizes.state,
        buckets=0,
        passing=max(FP32 * sizes.largest, update),
    )


def _zero(sizes: Held, settings: Settings, kind: str, world: int) -> State:
    """ZeRO 1 and 2 (`DeepSpeedZeroOptimizer`): an fp32 copy of its share of the weights beside the optimizer's state.

    Stage 1 holds all gradients until the end of a backward pass. In the host's memory the update needs its share of the
    gradients twice: as they come and as they are summed.
    """
    share = _share(sizes.trained, world)
    gradients, optimizer, host = FP32 * share, FP32 * share + _share(sizes.state, world), 0.0
    update = FP32 * share
    if settings.strategy.offload_optimizer:
        host = int(optimizer) + 2 * FP32 * share
        gradients, optimizer, update = FP32 * sizes.largest, 0, 0
    return State(
        parameters=FP32 * sizes.trained + sizes.frozen_bytes,
        gradients=gradients,
        optimizer=optimizer,
        buckets=bucket_bytes(sizes, settings),
        passing=max(FP32 * (sizes.trained if kind == "zero1" else sizes.largest), update),
        host=host,
    )


def _zero3(sizes: Held, settings: Settings, world: int) -> State:
    """ZeRO 3 (`DeepSpeedZeroOptimizer_Stage3`): shares of everything, and what is gathered while it is used: at most
    `stage3_max_live_parameters`, two buckets, and what is fetched ahead (parallel/zero_config.py). At the end of a
    backward pass a bucket of gradients is copied, and this process's share of it."""
    share, whole = _share(sizes.trained, world), FP32 * sizes.whole
    parameters: float = FP32 * share + _share(sizes.frozen_bytes, world) + whole
    gradients, optimizer, host = FP32 * share, FP32 * share + _share(sizes.state, world), 0.0
    bucket, own = bucket_bytes(sizes, settings), bucket_elements(sizes.trained, sizes.largest)
    live = FP32 * min(sizes.trained, 2 * own + prefetch_elements(own)) + min(sizes.frozen_bytes, 2 * FP32 * own)
    if settings.strategy.offload_optimizer:
        host, gradients, optimizer = int(optimizer) + 2 * FP32 * share, 0, 0
    if settings.strategy.offload_parameters:
        host, parameters = host + parameters - whole, whole
    return State(parameters, gradients, optimizer, bucket + live, bucket + bucket // world, host)


def _fsdp(sizes: Held, settings: Settings, world: int, weights: Weights) -> State:
    """PyTorch's `fully_shard`: shares of everything; what is outside of the blocks is gathered throughout, and a block
    with the one before and the one after it. At the end of a backward pass the gradients of what is outside of the
    blocks are whole, and copied once."""
    share = _share(sizes.trained, world)
    block, root = _gathered(weights, sizes)
    return State(
        parameters=FP32 * share + _share(sizes.frozen_bytes, world),
        gradients=FP32 * share,
        optimizer=_share(sizes.state, world),
        buckets=root + 3 * block,
        passing=2 * root,
    )


def bucket_bytes(sizes: Held, settings: Settings) -> int:
    """Bytes of DeepSpeed's bucket: of the size that `strategy.config` passes on, or else of distrain's own."""
    wanted = None
    if settings.strategy.config is not None:
        extra = read_user_config(settings.strategy.config).extra
        wanted = extra.get("zero_optimization", {}).get("reduce_bucket_size")
    return FP32 * int(wanted or bucket_elements(sizes.trained, sizes.largest))


def _share(whole: int, world: int) -> int:
    return -(-whole // world)


def _gathered(weights: Weights, sizes: Held) -> tuple[int, int]:
    """Bytes of a block that is gathered, and of all that is outside of blocks."""
    count = sizes.trained + sizes.frozen
    size = (FP32 * sizes.trained + sizes.frozen_bytes) / count if sizes.frozen else FP32
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
    """What `batch.tokens: auto` is on one device: the most that fits, and never less than the longest row."""

    def fitting(tokens: int) -> bool:
        return fits(plan(weights, settings, kind, world, tokens, device), memory)

    longest = settings.data.max_length
    return most_tokens(fitting, ROUND if longest is None else settings.row_tokens(longest))


def fewest_processes(settings: Settings, nodes: int, processes: int) -> int:
    """Processes that a run may have to do with: on all its nodes, or on `elastic.min_nodes`. processes: on each."""
    return min(settings.elastic.min_nodes or nodes, nodes) * processes


def kind_of(settings: Settings, world: int) -> str:
    """The strategy that a run of `world` processes takes."""
    return settings.strategy.kind or ("ddp" if world > 1 else "single")
