"""The ways to train that are killed and resumed on a GPU: every strategy that works on one, and every precision."""

from typing import NamedTuple


class Case(NamedTuple):
    """A way to train. options: settings by their names. decoder: whether it trains the small decoder instead of the
    encoder. same_losses: whether its losses are those of `single`. needs_gpu: whether a CPU refuses it."""

    options: dict[str, str]
    decoder: bool = False
    same_losses: bool = False
    needs_gpu: bool = False


def strategy(kind: str, *offloaded: str) -> Case:
    """A strategy, with what of it is in host memory."""
    return Case({"strategy.kind": kind} | {f"strategy.offload_{what}": "true" for what in offloaded}, same_losses=True)


CASES = {
    "single": Case({}),
    "zero1": strategy("zero1"),
    "zero2": strategy("zero2"),
    "zero3": strategy("zero3"),
    "fsdp": strategy("fsdp"),
    "zero1, optimizer in host memory": strategy("zero1", "optimizer"),
    "zero2, optimizer in host memory": strategy("zero2", "optimizer"),
    "zero3, optimizer in host memory": strategy("zero3", "optimizer"),
    "zero3, all in host memory": strategy("zero3", "optimizer", "parameters"),
    "bf16": Case({"precision": "bf16"}),
    "fp16": Case({"precision": "fp16"}, needs_gpu=True),
    "8-bit AdamW": Case({"optimizer.name": "adamw_8bit"}),
    "8-bit AdamW in pages": Case({"optimizer.name": "paged_adamw_8bit"}, needs_gpu=True),
    "QLoRA": Case({"precision": "bf16", "lora.rank": "4", "quantization.bits": "4"}, decoder=True),
    "QLoRA under zero2": Case(
        {"precision": "bf16", "lora.rank": "4", "quantization.bits": "4", "strategy.kind": "zero2"}, decoder=True
    ),
}
