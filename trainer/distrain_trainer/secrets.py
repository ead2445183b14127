"""What a secret is, and how a text is shown without one.

A run knows its secrets from the environment only. None may reach a log, a report, a model card, a tracker or a dump.
"""

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


def without_secrets(value: Any) -> Any:
    """The same nested lists and dictionaries with no secret in a text: those of this machine's variables, and those of
    a known shape."""
    match value:
        case str():
            for secret in known_secrets():
                value = value.replace(secret, HIDDEN)
            return SHAPES.sub(HIDDEN, value)
        case list() | tuple():
            return [without_secrets(item) for item in value]
        case dict():
            return {name: without_secrets(item) for name, item in value.items()}
    return value
