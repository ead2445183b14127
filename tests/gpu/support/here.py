"""Says whether this machine has a GPU before anything is installed or imported for it. Any Python runs this file."""

from __future__ import annotations  # for the Python of any system

import os
import sys
from collections.abc import Mapping
from pathlib import Path

DRIVERS = {"nvidia[0-9]*": "/dev/nvidia0", "dxg": "/dev/dxg", "kfd": "/dev/kfd"}
"""Files in /dev that drivers make, and how they are called: of NVIDIA's, of WSL's, of AMD's."""
REFUSED = 64
"""Exit code for what cannot work here, as of settings that are refused."""


def missing(devices: Path = Path("/dev"), environment: Mapping[str, str] = os.environ) -> str | None:
    """A sentence about the GPU that is not here, None where there is one."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return f"no GPU here: CUDA_VISIBLE_DEVICES is '{hidden}', which hides them all; unset it"
    if not any(list(devices.glob(pattern)) for pattern in DRIVERS):
        names = list(DRIVERS.values())
        return f"no GPU here: its driver makes {', '.join(names[:-1])} or {names[-1]}, and none of them is there"
    return None


def unusable() -> str | None:
    """A sentence about why torch cannot use the GPU that is here, None where it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is a build for the CPU; `make clean`, then `make gpu-test WHEELS=` takes the registry's"
    return f"torch {torch.__version__} finds no GPU that it can use; see what nvidia-smi says of the driver"


if __name__ == "__main__":
    sentence = missing() or (unusable() if sys.argv[1:] == ["torch"] else None)
    if sentence:
        print(f"make gpu-test: {sentence}", file=sys.stderr)
        sys.exit(REFUSED)
