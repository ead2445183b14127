"""Settings that contradict each other: adapters, quantization and 8-bit optimizers."""

from distrain_trainer.settings.fields import Fields
from distrain_trainer.settings.sections import EIGHT_BITS, SHARDED, Lora, Quantization


def adapter_contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Those of adapters, quantization and 8-bit optimizers."""
    adapter, bits, kind = s.lora.rank is not None, s.quantization.bits, s.strategy.kind
    return [
        (
            not adapter and s.lora != Lora(),
            "lora has settings but lora.rank is not set, which turns the adapter on; set it",
        ),
        (
            bits is None and s.quantization != Quantization(),
            "quantization has settings but quantization.bits is not set, which turns it on; set it to 4 or 8",
        ),
        (
            bits is not None and not adapter,
            "quantization.bits is set but quantized weights cannot be trained; set lora.rank to train an adapter",
        ),
        (
            bits == 8 and s.quantization.compute_dtype is not None,
            "quantization.compute_dtype is for 4 bits; remove it or set quantization.bits to 4",
        ),
        (
            bits == 8 and s.lora.dora,
            "lora.dora conflicts with quantization.bits 8, whose scales peft loses at the second step; choose 4 bits",
        ),
        (
            adapter and ("all-linear" in s.lora.target_modules) != (s.lora.target_modules == ["all-linear"]),
            "lora.target_modules names layers in addition to all-linear, which is all of them; keep one or the other",
        ),
        (
            adapter and not s.lora.target_modules,
            "lora.target_modules is empty; name layers, or all-linear",
        ),
        (
            s.model.dtype is not None and not adapter,
            "model.dtype is for the frozen weights under an adapter; remove it, set lora.rank, or set precision",
        ),
        (
            s.model.dtype not in (None, "fp32") and s.precision == "fp32",
            f"model.dtype is {s.model.dtype} but precision is fp32; set precision to bf16 or fp16, or remove it",
        ),
        (
            bits is not None and kind in SHARDED,
            f"quantization.bits conflicts with strategy.kind {kind}, which cuts weights apart that bitsandbytes has "
            "packed with their scales; choose ddp, zero1 or zero2",
        ),
        (
            s.optimizer.name in EIGHT_BITS and kind not in (None, "single", "ddp"),
            f"optimizer.name {s.optimizer.name} conflicts with strategy.kind {kind}, which cuts apart the blocks that "
            "share a scale; choose adamw, or single or ddp",
        ),
        (
            s.optimizer.name in ("adafactor", "muon") and kind not in (None, "single", "ddp"),
            f"optimizer.name {s.optimizer.name} computes with whole matrices, which strategy.kind {kind} cuts apart; "
            "choose adamw, or single or ddp",
        ),
    ]
