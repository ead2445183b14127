"""How values of settings are read and checked where their types alone do not say it.

Readers take what people write and give what a type expects; the others raise ValueError, whose text ends a sentence.
"""

import codecs
import math
import re


def as_list(value: object) -> object:
    """One value, or several separated by commas, stands for a list: `--data.files 'a.csv,b.csv'`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def as_number(value: object) -> object:
    """Digits stand for their number, where only some numbers are possible: `--quantization.bits 4`."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def known_encoding(name: str) -> str:
    """The name of an encoding that Python knows. Raises ValueError."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("it should be an encoding that Python knows, such as latin-1, cp1252 or utf-16") from None


def as_weights(value: object) -> object:
    """A mapping, as a file may hold it, stands for its pairs: `{spam: 4}` for `spam=4`."""
    return [f"{label}={weight}" for label, weight in value.items()] if isinstance(value, dict) else as_list(value)


def checked_weights(values: list[str] | None) -> list[str] | None:
    """Weights of classes: `balanced`, or pairs of a label and a positive number. Raises ValueError."""
    for value in [] if values == ["balanced"] else values or ():
        try:
            number = float(value.rpartition("=")[2])
        except ValueError:
            number = 0.0
        if not ("=" in value and 0 < number < math.inf):
            raise ValueError(f"{value} is not a label and a positive number; write balanced, or such as spam=4,ham=0.5")
    return values


def checked_mix(values: list[str] | None) -> list[str] | None:
    """Pairs of a data set, each once, and a weight. Raises ValueError."""
    for value in values or ():
        name, _, weight = value.rpartition("=")
        try:
            number = float(weight)
        except ValueError:
            number = 0.0
        if not (name.strip() and 0 < number <= 1000):
            raise ValueError(
                f"{value} is not a data set and a weight above 0; write such as chats.jsonl=2,owner/name=1"
            )
    if values is not None and len({value.rpartition("=")[0].strip() for value in values}) < len(values):
        raise ValueError("a data set stands in it twice; give each once")
    return values or None


def whole(value: float) -> int | float:
    """A number without a fraction as an integer, which is how people write it."""
    return int(value) if value == int(value) else value


def repository_name(name: str) -> str:
    """The name of a repository on the Hub, checked by the Hub's own rules. Raises ValueError."""
    part = r"\b[A-Za-z0-9_.-]{1,96}\b"
    if not re.fullmatch(rf"{part}/{part}", name) or "--" in name or ".." in name or name.endswith(".git"):
        raise ValueError("it should be owner/name, each of letters, digits, hyphens, dots and underscores")
    return name
