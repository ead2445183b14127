"""What measured.py measures: models, tasks and settings, and under which strategies."""

from pathlib import Path
from typing import Any

from distrain_trainer.memory.estimate import KINDS

CHUNK_BYTES = 200_000
"""Of a chunk of logits: a quarter of what the small models make."""
LOWER = ["*embed_tokens*", "*layers.0.*", "*layers.1.*"]


KTO, DPO, ORPO = ({"preference": {"method": method}, "rows": 4} for method in ("kto", "dpo", "orpo"))
LORA, CHECKPOINTED = {"lora": {"rank": 4}}, {"gradient_checkpointing": True}
CASES: tuple[tuple[str, str, str, dict[str, Any], tuple[str, ...]], ...] = (
    ("llama", "causal-lm", "", {"precision": "bf16"}, KINDS),
    ("bert", "sequence-classification", "", {}, KINDS),
    ("gpt2", "causal-lm", "SGD", {"optimizer": {"name": "sgd", "momentum": 0.9}}, ("single", "ddp")),
    ("llama", "causal-lm", "packed", {"precision": "bf16", "length": 256, "batch": {"packing": True}}, ("ddp",)),
    ("llama", "causal-lm", "DoRA", {"lora": {"rank": 4, "dora": True}}, ("single",)),
    ("llama", "causal-lm", "adapter", {"precision": "bf16"} | LORA, ("zero2", "zero3", "fsdp")),
    ("bert", "masked-lm", "", {"precision": "bf16"}, ("single",)),
    ("gpt2", "causal-lm", "eager attention", {"precision": "bf16", "model": {"attention": "eager"}}, ("single",)),
    ("llama", "causal-lm", "checkpointed", {"model": CHECKPOINTED}, ("single",)),
    ("llama", "causal-lm", "checkpointed", {"precision": "bf16", "model": CHECKPOINTED}, KINDS),
    (
        "llama",
        "causal-lm",
        "checkpointed, a short row",
        {"precision": "bf16", "model": CHECKPOINTED, "rows": 1, "length": 16},
        ("single", "ddp", "zero2", "zero3"),
    ),
    ("qwen3", "sequence-classification", "", {}, ("single",)),
    ("gemma3", "causal-lm", "", {"precision": "bf16"}, ("single",)),
    ("sample", "sequence-classification", "", {"rows": 2}, ("single",)),
    ("llama", "causal-lm", "packed, rows of 512", {"length": 512, "batch": {"packing": True}}, ("single",)),
    ("llama", "causal-lm", "chunked loss", {"precision": "bf16", "model": {"chunked_loss": True}}, ("single",)),
    ("llama", "causal-lm", "lower blocks frozen", {"model": {"freeze": LOWER}}, ("single", "fsdp")),
    ("bert", "sequence-classification", "adapter", LORA, ("single",)),
    ("gpt2", "causal-lm", "DoRA", {"precision": "bf16", "lora": {"rank": 4, "dora": True}}, ("single",)),
    (
        "llama",
        "causal-lm",
        "DoRA with dropout",
        {"precision": "bf16", "lora": {"rank": 4, "dora": True, "dropout": 0.1}},
        ("single",),
    ),
    ("llama", "causal-lm", "4 bits", {"precision": "bf16", "quantization": {"bits": 4}} | LORA, ("single",)),
    (
        "llama",
        "causal-lm",
        "4 bits, checkpointed",
        {"precision": "bf16", "quantization": {"bits": 4}, "model": CHECKPOINTED} | LORA,
        ("single",),
    ),
    ("llama", "preference", "dpo", DPO, KINDS),
    ("llama", "preference", "orpo", ORPO, KINDS),
    ("llama", "preference", "kto", KTO | {"precision": "bf16"}, KINDS),
    ("llama", "preference", "kto, checkpointed", KTO | {"model": CHECKPOINTED}, KINDS),
    ("t5", "sequence-to-sequence", "", {}, KINDS),
    ("t5", "sequence-to-sequence", "long targets", {"precision": "bf16", "length": 32, "target": 96}, ("single",)),
    ("t5", "sequence-to-sequence", "checkpointed", {"precision": "bf16", "model": CHECKPOINTED}, KINDS),
    ("t5", "sequence-to-sequence", "adapter", {"precision": "bf16"} | LORA, ("single",)),
    ("bart", "sequence-to-sequence", "", {"precision": "bf16"}, KINDS),
    ("bart", "sequence-to-sequence", "checkpointed", {"model": CHECKPOINTED}, KINDS),
    ("bart", "sequence-to-sequence", "adapter", LORA, ("single",)),
)
"""Model, task, what is special, settings (and rows, 8, and their length, 64, and that of targets, 32), strategies."""


def measured_cases(models: dict[str, Path], kind: str) -> list[dict[str, Any]]:
    """The cases of a strategy, as measured.py takes them."""
    found = []
    for model, task, special, settings, where in CASES:
        if kind in where:
            rows, length, target = (
                settings.get(n, count) for n, count in (("rows", 8), ("length", 64), ("target", 32))
            )
            sections = {name: value for name, value in settings.items() if name not in ("rows", "length", "target")}
            sections["model"] = {"name": str(models.get(model, model))} | settings.get("model", {})
            data = {"max_length": length}
            if task == "sequence-to-sequence":
                data["max_target_length"] = target
            texts = 2 if task == "preference" else 1
            tokens = rows * (texts * length + data.get("max_target_length", 0))
            sections["batch"] = {"tokens": tokens} | settings.get("batch", {})
            sections |= {"task": task, "data": data, "strategy": {"kind": kind}}
            what = ", ".join([model, task, settings.get("precision", "fp32"), *([special] if special else [])])
            world = 1 if kind == "single" else 2
            found.append({"world": world, "rows": rows, "chunk_bytes": CHUNK_BYTES, "what": what, "settings": sections})
    return found
