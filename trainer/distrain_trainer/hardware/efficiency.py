"""How well a GPU is used: the part of the time that it computes, and the model's share of its peak (MFU).

MFU counts what the model's matrices need for the tokens that are trained on, without padding and recomputation, against
what the GPU's data sheet says of dense matrices (the definition of PaLM, appendix B, arXiv:2204.02311).
"""

from collections.abc import Callable
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


@dataclass
class Efficiency:
    """Measures process 0's GPU. per_token: operations of the model for a token of a row of this length, None where that
    is unknown. peak: of each of the run's processes. gpu: what is measured, None for nothing: a CPU, or a process whose
    lines nobody reads. None in a line of metrics means that it is unknown."""

    per_token: Callable[[float], float] | None
    peak: float | None
    gpu: torch.device | None
    processes: int

    @classmethod
    def of(
        cls,
        per_token: Callable[[float], float] | None,
        device: torch.device,
        precision: str,
        processes: int,
        is_main: bool,
    ) -> "Efficiency":
        """For the device of a process."""
        gpu = device if device.type == "cuda" and is_main else None
        peak = None if gpu is None else peak_flops(torch.cuda.get_device_name(gpu), precision)
        return cls(per_token, peak, gpu, processes)

    def step(self, tokens: int, samples: int, seconds: float) -> dict[str, float | None]:
        """Lines of metrics for a step of all processes: `gpu_utilization` and `mfu`, both from 0 to 1."""
        mfu = None
        if self.peak is not None and self.per_token is not None:
            needed = self.per_token(tokens / max(samples, 1))
            mfu = tokens * needed / (seconds * self.peak * self.processes)
        return {"gpu_utilization": self._utilization(), "mfu": mfu}

    def _utilization(self) -> float | None:
        """The part of the last second or less in which the GPU computed."""
        if self.gpu is None:
            return None
        try:
            return torch.cuda.utilization(self.gpu) / 100
        except Exception:  # no library of the driver, or one that answers in its own way
            return None
