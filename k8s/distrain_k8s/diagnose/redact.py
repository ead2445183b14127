"""Takes secrets out of what is shown or written to a file for others."""

from collections.abc import Iterable
from typing import Any

from distrain_trainer.secrets import HIDDEN, NAMES, SHAPES, known_secrets, redacted_text

__all__ = ["HIDDEN", "known_secrets", "redacted", "redacted_line", "redacted_text"]


def redacted_line(text: str) -> str:
    """A line of a log without what has the shape of a secret. What is assigned to a name stays: runs log texts."""
    return SHAPES.sub(HIDDEN, text)


def redacted(value: Any, known: Iterable[str] = ()) -> Any:
    """An object of the API without secrets, managed fields and the copy that kubectl apply keeps."""
    known = tuple(known)
    if isinstance(value, str):
        return redacted_text(value, known)
    if isinstance(value, list):
        return [redacted(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("kind") == "Secret":
        return {"kind": "Secret", "metadata": {"name": (value.get("metadata") or {}).get("name")}}
    if isinstance(value.get("name"), str) and NAMES.search(value["name"]) and "value" in value:
        value = {**value, "value": HIDDEN}
    left_out = ("managedFields", "kubectl.kubernetes.io/last-applied-configuration")
    return {
        name: HIDDEN if isinstance(inner, str) and NAMES.search(name) and inner else redacted(inner, known)
        for name, inner in value.items()
        if name not in left_out
    }
