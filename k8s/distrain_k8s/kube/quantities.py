"""Quantities of Kubernetes, such as 500m and 1.5Gi."""

import re
from typing import Any

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
PARTS = {"m": 10**-3, "u": 10**-6, "n": 10**-9}


def quantity(text: Any) -> float:
    """A quantity of Kubernetes (`500m`, `1.5Gi`, `8`) as a number."""
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)", str(text).strip())
    if match is None or match[2] not in UNITS | PARTS:
        raise ValueError(f"{text!r} is not a quantity")
    return float(match[1]) * (UNITS | PARTS)[match[2]]
