"""How numbers are computed: in which types, by which kernels, and what these do with very small ones."""

import os

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types, by their names in the settings."""
LARGEST_ERROR = 1e-5
"""Relative error of a product of fp32 matrices up to which it counts as fp32: bf16's is a hundred times that."""


def set_up_numerics(threads: int, deterministic: bool) -> None:
    """Sets this process's threads and kernels. Before any thread is started."""
    torch.set_num_threads(threads)
    # Numbers under 1e-38, as in the gradient of a confident softmax, make a CPU up to 50 times slower.
    torch.set_flush_denormal(True)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
        torch.use_deterministic_algorithms(True)
    if not torch.cuda.is_available():
        _multiply_with_onednn()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The forward pass in `precision`; weights stay as they are.

    Each weight is cast where it is multiplied. autocast's cache would hold the copies of all until the pass is over,
    those of checkpointed blocks and of an evaluation too, and let chunks of the loss add up gradients in 16 bits; it
    saves no cast, since a model uses each matrix once.
    """
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=False)


def _multiply_with_onednn() -> None:
    """Lets oneDNN multiply fp32 matrices on the CPU where it really does so in fp32.

    It is faster than the default, on some processors twice, but the switch that chooses it also permits bf16, which
    other processors then use; so the result is checked.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = float((left @ right - exact).norm() / exact.norm())
    if error > LARGEST_ERROR:
        torch.set_float32_matmul_precision("highest")


def matmul() -> str:
    """Which library multiplies fp32 matrices on the CPU: part of what bit-exact results depend on."""
    return "onednn" if torch.get_float32_matmul_precision() == "medium" else "default"
