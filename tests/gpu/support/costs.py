"""What a run costs on a GPU: the runs that are measured, what is read from their metrics, and the table of them."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from distrain_trainer.hardware.machine import hardware, versions
from distrain_trainer.memory.advice import read_model, size
from distrain_trainer.memory.estimate import kind_of, plan
from distrain_trainer.settings.model import Settings, nested
from runs import metrics

BF16, CHECKPOINTED = {"precision": "bf16"}, {"model.gradient_checkpointing": True}
LORA: dict[str, Any] = BF16 | {"lora.rank": 16, "lora.alpha": 32}
QLORA: dict[str, Any] = LORA | {"quantization.bits": 4}
CASES: dict[str, dict[str, Any]] = {
    "all weights, fp32": {},
    "all weights, bf16": BF16,
    "all weights, bf16, checkpointed": BF16 | CHECKPOINTED,
    "all weights, bf16, zero2, optimizer in host memory": BF16
    | {"strategy.kind": "zero2", "strategy.offload_optimizer": True},
    "LoRA, bf16": LORA,
    "LoRA, bf16, checkpointed": LORA | CHECKPOINTED,
    "QLoRA, 4 bits, bf16": QLORA,
    "QLoRA, 4 bits, bf16, checkpointed": QLORA | CHECKPOINTED,
}
"""Name -> settings by dotted names."""


class Scale(NamedTuple):
    """The size of the model and of a step. length: tokens of a row. rows: of a step. warm: steps before the first that
    is measured."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    length: int
    rows: int
    steps: int
    warm: int


SCALES = {
    "cuda": Scale(1024, 2816, 12, 16, 16_384, 1024, 8, 30, 10),
    "cpu": Scale(64, 160, 2, 4, 512, 128, 2, 6, 2),
}
"""By device; on a CPU the tests themselves are tried."""


def build_model(folder: Path, scale: Scale) -> Path:
    """A decoder of random weights, and its tokenizer."""
    tokenizer = tiny.byte_bpe("<s>", "</s>")
    tokenizer.model_max_length = scale.length
    config = LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=scale.inner,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.heads // 2,
        max_position_embeddings=scale.length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_long_texts(path: Path, scale: Scale) -> Path:
    """As many texts as a run needs, each longer than a row."""
    text = " ".join(tiny.LINES * (scale.length // 8))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(scale.rows * scale.steps)))
    return path


def settings_of(case: Mapping[str, Any], model: Path, texts: Path, output: Path, scale: Scale) -> dict[str, Any]:
    """The settings of a run whose every step is one full micro-batch, by dotted names."""
    return {
        "task": "causal-lm",
        "model.name": str(model),
        "data.files": str(texts),
        "data.evaluation_fraction": 0,
        "data.max_length": scale.length,
        "data.long_texts": "truncate",
        "batch.tokens": scale.length * scale.rows,
        "batch.micro_batches": 1,
        "schedule.epochs": 1,
        "output_dir": str(output),
        **case,
    }


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they are typed."""
    values = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def planned_bytes(settings: Mapping[str, Any], device: str) -> int:
    """Peak memory of one process as `distrain plan` has it."""
    read = Settings.model_validate(nested(dict(settings)))
    assert isinstance(read.batch.tokens, int)
    return plan(read_model(read), read, kind_of(read, 1), 1, read.batch.tokens, device).total


@dataclass(frozen=True)
class Cost:
    """What one run has cost. planned, measured: bytes of peak memory; of the whole process on a CPU."""

    tokens_per_second: float
    step_seconds: float
    mfu: float | None
    planned: int
    measured: int

    @property
    def off(self) -> float:
        """How far the plan is from what was measured, relative to it."""
        return self.planned / self.measured - 1


def cost_of(output: Path, planned: int, scale: Scale) -> Cost:
    """The medians of a finished run's steps, and its peak."""
    lines = [line for line in metrics(output) if "loss" in line]
    assert len(lines) == scale.steps and {line["tokens"] for line in lines} == {scale.length * scale.rows}
    warm = lines[scale.warm :]
    shares = [line["mfu"] for line in warm if line["mfu"] is not None]
    return Cost(
        statistics.median(line["tokens_per_second"] for line in warm),
        statistics.median(line["step_seconds"] for line in warm),
        statistics.median(shares) if shares else None,
        planned,
        max(line["memory_bytes"] for line in lines),
    )


def driver() -> str:
    """The version of NVIDIA's driver, or why it is not known."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return f"unknown ({error})"


def machine(device: str) -> str:
    """What the table was measured on."""
    if device == "cpu":
        return f"{hardware()['processor']} (no GPU: this only tries the tests)"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name} with {properties.total_memory / 2**30:.0f} GiB, driver {driver()}"


def software() -> str:
    """The versions that figures depend on."""
    names = ("distrain", "torch", "transformers", "accelerate", "peft", "deepspeed", "bitsandbytes")
    found = {name: version for name, version in versions().items() if name in names}
    if torch.version.cuda:
        nccl: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        cudnn: int = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"CUDA": torch.version.cuda, "NCCL": ".".join(map(str, nccl)), "cuDNN": str(cudnn)}
    return ", ".join(f"{name} {version}" for name, version in found.items())


@dataclass
class Table:
    """A row a run, below what it was measured on. command: that makes it again."""

    device: str
    scale: Scale
    command: str
    rows: list[tuple[str, ...]] = field(default_factory=list)

    HEADER = ("run", "tokens/s", "step", "MFU", "memory, planned", "measured", "planned relative to measured")

    def add(self, name: str, cost: Cost) -> None:
        """mfu and comparison stay open where they are not known, as on a CPU."""
        self.rows.append(
            (
                name,
                f"{cost.tokens_per_second:,.0f}",
                f"{1000 * cost.step_seconds:.1f} ms",
                "-" if cost.mfu is None else f"{cost.mfu:.1%}",
                size(cost.planned),
                size(cost.measured),
                f"{cost.off:+.1%}" if self.device == "cuda" else "-",
            )
        )

    def __str__(self) -> str:
        scale = self.scale
        about = (
            f"{machine(self.device)}; {date.today()}; `{self.command}`\n\n{software()}\n\n"
            f"A Llama of {scale.layers} layers of {scale.hidden}, vocabulary {scale.vocabulary:,}; "
            f"{scale.rows} rows of {scale.length:,} tokens a step; medians of {scale.steps - scale.warm} steps.\n\n"
        )
        lines = (self.HEADER, ("---", *["---:"] * (len(self.HEADER) - 1)), *self.rows)
        return about + "".join(f"| {' | '.join(line)} |\n" for line in lines)
