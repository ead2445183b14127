"""How much DeepSpeed communicates at once: sizes that follow from the model, in elements."""

BUCKET = 200_000_000
"""Elements of a bucket that no parameter makes larger: 0.8 GB in fp32."""
PREFETCH = 50_000_000
"""Elements that zero3 fetches ahead of their use, at most."""
PERSISTENT = 100_000
"""Elements of a parameter that zero3 leaves whole, at most; or a 128th of the largest parameter, if that is less."""


def bucket_elements(parameters: int, largest: int) -> int:
    """Elements of DeepSpeed's communication bucket: all parameters, at most 200,000,000, but at least the largest one.

    parameters, largest: elements of all parameters that are trained, and of the largest of them. Rounded up to an even
    number, as DeepSpeed wants. A bucket is held in fp32, once.
    """
    bucket = max(largest, min(parameters, BUCKET), 1)
    return bucket + bucket % 2


def prefetch_elements(bucket: int) -> int:
    """Elements that zero3 fetches ahead."""
    return min(bucket, PREFETCH)


def persistent_elements(largest: int) -> int:
    """Elements of a parameter up to which zero3 leaves it whole on every process."""
    return min(largest // 128, PERSISTENT)
