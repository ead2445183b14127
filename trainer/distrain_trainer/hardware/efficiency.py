"""How well a GPU is used: the part of the time that it computes, and the model's share of its peak (MFU).

MFU counts what the model's matrices need for the tokens of a step, without padding and recomputation, against what the
GPU's data sheet says of dense matrices (the definition of PaLM, appendix B, arXiv:2204.02311).
"""

from dataclasses import dataclass

import torch

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


@dataclass(frozen=True)
class ModelFlops:
    """What a model needs, in floating-point operations for each token.

    forward, backward: of its matrices. attention: of a forward pass, for each token of the same text; a backward pass
    needs twice as many.
    """

    forward: int
    backward: int
    attention: int

    def of(self, tokens: int, forward_only: int, texts: int) -> float:
        """Operations for some texts. tokens: of all of them. forward_only: those of `tokens` that no gradient goes back
        through."""
        attention = self.attention * tokens / max(texts, 1)
        forward, backward = self.forward + attention, self.backward + 2 * attention
        return tokens * forward + (tokens - forward_only) * backward


@dataclass
class Efficiency:
    """Measures process 0's GPU. flops: what the model needs, None where that is unknown. peak: operations a second of
    each of the run's processes. gpu: what is measured, None for nothing: a CPU, or a process whose lines nobody reads.
    None in a line of metrics means that it is unknown."""

    flops: ModelFlops | None
    peak: float | None
    gpu: torch.device | None
    processes: int

    @classmethod
    def of(
        cls, flops: ModelFlops | None, device: torch.device, precision: str, processes: int, is_main: bool
    ) -> "Efficiency":
        """For the device of a process."""
        gpu = device if device.type == "cuda" and is_main else None
        peak = None if gpu is None else peak_flops(torch.cuda.get_device_name(gpu), precision)
        return cls(flops, peak, gpu, processes)

    def step(self, tokens: int, forward_only: int, texts: int, seconds: float) -> dict[str, float | None]:
        """Lines of metrics for a step of all processes: `gpu_utilization` and `mfu`, both from 0 to 1. Arguments as of
        `ModelFlops.of`, and the seconds that the step took."""
        mfu = None
        if self.peak is not None and self.flops is not None:
            mfu = self.flops.of(tokens, forward_only, texts) / (seconds * self.peak * self.processes)
        return {"gpu_utilization": self._utilization(), "mfu": mfu}

    def _utilization(self) -> float | None:
        """The part of the last second or less in which the GPU computed."""
        if self.gpu is None:
            return None
        try:
            return torch.cuda.utilization(self.gpu) / 100
        except Exception:  # no library of the driver, or one that answers in its own way
            return None
