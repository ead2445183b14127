"""Takes secrets out of what is shown or written to a file for others."""

import os
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "REDACTED"
NAMES = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)$", re.IGNORECASE)
"""Names of variables whose values are not shown."""
SHAPES = re.compile(
    r"hf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}"  # JSON web tokens, such as those of service accounts
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL,
)
ASSIGNED = re.compile(
    r"(?i)\b([\w-]*(?:token|password|passwd|secret|api_?key|access_?key))(\"?\s*[=:]\s*\"?)(?!null\b|None\b)([^\s\",;}]{6,})"
)
"""`WANDB_API_KEY=...`, `"token": "..."` and the like within a text."""
SHORTEST = 8
"""Fewest characters of a known secret: a shorter one would blot out ordinary words."""


def known_secrets(more: Iterable[str] = ()) -> tuple[str, ...]:
    """Values that must not appear anywhere: this machine's own variables of that kind, and `more`."""
    own = (value for name, value in os.environ.items() if NAMES.search(name))
    return tuple(sorted({value for value in (*own, *more) if len(value) >= SHORTEST}, key=len, reverse=True))


def redacted_text(text: str, known: Iterable[str] = ()) -> str:
    """A text without secrets: those that are known, those of a known shape, and what is assigned to a name of one."""
    for secret in known:
        text = text.replace(secret, HIDDEN)
    return ASSIGNED.sub(rf"\1\2{HIDDEN}", SHAPES.sub(HIDDEN, text))


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
