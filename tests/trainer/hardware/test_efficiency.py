"""How well a GPU is used, from what it can do and what a model needs."""

import pytest

from distrain_trainer.hardware.efficiency import Efficiency, ModelFlops, peak_flops


def test_a_gpus_peak_is_that_of_its_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA H200", "fp32") == 67e12
    assert peak_flops("NVIDIA L40S", "fp16") == 362e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "fp32") == 19.5e12
    assert peak_flops("Some other device", "bf16") is None


def test_the_share_of_the_peak_counts_all_gpus() -> None:
    two = Efficiency(ModelFlops(10**9, 2 * 10**9, attention=1), 1e12, None, processes=2)
    line = two.step(tokens=1000, forward_only=0, texts=10, seconds=1.0)
    assert line["mfu"] == pytest.approx(1000 * (3e9 + 3 * 100) / 2e12)
    nothing = Efficiency(None, 1e12, None, processes=1)
    assert nothing.step(1000, 0, 10, 1.0) == {"gpu_utilization": None, "mfu": None}
