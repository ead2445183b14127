"""What the bytes of a forward pass depend on."""

from dataclasses import dataclass

from distrain_trainer.memory.model_shapes import Weights
from distrain_trainer.settings.model import Settings

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an element."""
FP32, INT64 = 4, 8
"""Bytes of an element of what is always held so."""


@dataclass(frozen=True)
class Forward:
    """One micro-batch of `tokens` padded tokens under a strategy (`kind`) on a device: cuda or cpu."""

    weights: Weights
    settings: Settings
    tokens: int
    kind: str
    device: str

    @property
    def size(self) -> int:
        """Bytes of an element in `precision`."""
        return SIZES[self.settings.precision]

    @property
    def is_16_bit(self) -> bool:
        """Whether matrices are multiplied in 16 bits."""
        return self.size < FP32

    @property
    def casts(self) -> bool:
        """Whether autocast makes 16-bit copies of fp32 matrices; zero3 multiplies with a function of DeepSpeed's."""
        return self.is_16_bit and self.kind != "zero3"

    @property
    def base_size(self) -> int:
        """Bytes of an element of a frozen base model."""
        return SIZES[self.settings.model.dtype or self.settings.precision]

    @property
    def length(self) -> int:
        """Tokens of the longest row, or of the longest target."""
        if self.weights.source is not None:
            return self.settings.data.max_target_length
        return longest(self.weights, self.settings, self.tokens)

    @property
    def mask_size(self) -> int:
        """Bytes of an element of a dropout mask: a kernel of its own on a GPU, a product on a CPU (`native_dropout` and
        `dropout` in aten/src/ATen/native/Dropout.cpp)."""
        return self.size if self.device == "cpu" else 1

    @property
    def stream(self) -> int:
        """Bytes of an element of what a block hands to the next: that of the embedding, or of LayerNorm at its end,
        which autocast computes in fp32 on a GPU."""
        if self.settings.lora.rank is None or (self.weights.encoder and self.device != "cpu"):
            return FP32
        return self.base_size

    @property
    def norm_size(self) -> int:
        """Bytes of an element of a norm's input: fp32 for RMSNorm, and for LayerNorm on a GPU."""
        return FP32 if self.weights.rms or self.device != "cpu" else self.stream


def shares(weights: Weights, settings: Settings, tokens: int) -> tuple[int, int]:
    """Padded tokens of the sources and of the targets in a micro-batch of `tokens`, whose rows are as long as they may
    be. A model without an encoder of its own has no sources."""
    if weights.source is None:
        return 0, tokens
    target = settings.data.max_target_length
    source = longest(weights.source, settings, max(tokens - target, 1))
    of_sources = tokens * source // (source + target)
    return of_sources, tokens - of_sources


def longest(weights: Weights, settings: Settings, tokens: int) -> int:
    """Tokens of the longest row of a micro-batch."""
    return settings.data.max_length or min(weights.positions or tokens, tokens)
