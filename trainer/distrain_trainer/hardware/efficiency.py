"""How well a GPU is used: the part of the time that it computes, and the model's share of its peak (MFU).

MFU counts what the model's matrices need for the tokens that are trained on, without padding and recomputation, against
what the GPU's data sheet says of dense matrices (the definition of PaLM, appendix B, arXiv:2204.02311).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PEAKS: dict[str, tuple[float, float]] = {
    "B200": (2250, 80),
    "GH200": (989, 67),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "H800": (989, 67),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A30": (165, 10.3),
    "A40": (150, 37.4),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "RTX 4090": (165, 82.6),
    "RTX 3090": (71, 35.6),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
    "MI300X": (1307, 163.4),
}
"""Part of a GPU's name -> its peak in teraFLOPS: of 16-bit matrices with sums in fp32, and of fp32. The first that fits
counts."""


def peak_flops(name: str, precision: str) -> float | None:
    """Operations a second that a GPU can do at most in `precision`, None for a GPU that is not in the table.

    name: as its driver calls it. In fp32 matrices are not rounded to TF32 here, so that its peak is not TF32's.
    """
    found = next((peaks for part, peaks in PEAKS.items() if part in name), None)
    if found is None:
        return None
    return 1e12 * found[1 if precision == "fp32" else 0]


def flops_per_token(model: Any, row: float) -> float | None:
    """Operations of a forward and a backward pass for each token, None where not every token meets every matrix (a
    mixture of experts, an encoder with a decoder).

    model: of transformers, not yet cut apart. row: tokens of a row. A frozen matrix needs no gradient of its own; that
    of what flows through it is always counted.
    """
    config = model.config.get_text_config()
    sparse = any(getattr(config, name, 0) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if sparse or model.config.is_encoder_decoder:
        return None
    head = model.get_output_embeddings()
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    looked_up = tables - ({head.weight} if head is not None else set())
    products: float = 12 * config.num_hidden_layers * config.hidden_size * row  # of attention
    for parameter in model.parameters():
        if parameter.ndim >= 2 and parameter not in looked_up:
            number = parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)
            products += number * (6 if parameter.requires_grad else 4)
    return products


@dataclass
class Efficiency:
    """Measures process 0's GPU. per_token: operations that depend on the length of a row, as `flops_per_token` gives
    them. processes: of the run. None in a line of metrics means that it is unknown."""

    per_token: Callable[[float], float | None]
    peak: float | None
    device: torch.device
    processes: int

    @classmethod
    def of(cls, model: Any, device: torch.device, precision: str, processes: int) -> "Efficiency":
        """For a model that is not yet cut apart."""
        peak = peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
        none, one = (flops_per_token(model, row) for row in (0.0, 1.0))

        def per_token(row: float) -> float | None:
            return None if none is None or one is None else none + (one - none) * row

        return cls(per_token, peak, device, processes)

    def step(self, tokens: int, samples: int, seconds: float) -> dict[str, float | None]:
        """Lines of metrics for a step of all processes: `gpu_utilization` and `mfu`, both from 0 to 1."""
        needed = self.per_token(tokens / max(samples, 1))
        mfu = None
        if self.peak is not None and needed is not None:
            mfu = tokens * needed / (seconds * self.peak * self.processes)
        return {"gpu_utilization": self._utilization(), "mfu": mfu}

    def _utilization(self) -> float | None:
        """The part of the last second or less in which the GPU computed."""
        if self.peak is None and self.device.type != "cuda":
            return None
        try:
            return torch.cuda.utilization(self.device) / 100
        except Exception:  # no library of the driver, or one that answers in its own way
            return None
