"""What another trainer's file has said so far: settings, parts of settings, and what could not be taken."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain_trainer.convert.rules import Part, Rule
from distrain_trainer.secrets import without_secrets
from distrain_trainer.settings.deepspeed_keys import Counts, Ignored, Passes, Refused

LONGEST = 60
"""Characters of a value that a sentence shows."""
PRIVATE = re.compile(r"(^|_)(token|api_key|password|secret)$")
SWITCHES = {"true": True, "false": False}


@dataclass
class Found:
    """settings: dotted names to values. sources: their names -> the keys that said so. parts: their names -> key and
    value. left: sentences on what was not taken. idle: reason -> keys without effect. said: sentences on what was
    decided."""

    settings: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, Any]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    idle: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def sets(self, setting: str, value: object, source: str) -> None:
        """Takes a setting, unless another key has said something else before."""
        if setting in self.settings and self.settings[setting] != value:
            self.left.append(f"{source}: {self.sources[setting]} says otherwise, which is taken; keep one of them")
        else:
            self.settings[setting], self.sources[setting] = value, source

    def leaves(self, key: str, value: object, why: str) -> None:
        """Says why a key was not taken."""
        self.left.append(f"{shown(key, value)}: {why}")

    def part(self, name: str) -> Any:
        """The value of a part; None where no key has given it."""
        return self.parts.get(name, ("", None))[1]

    def key(self, name: str) -> str:
        """The key that has given a part."""
        return self.parts.get(name, (name, None))[0]

    def switch(self, name: str) -> bool:
        """Whether a part is on."""
        return self.part(name) is True

    def number(self, name: str) -> float | None:
        """A part that is a number; None where it is not given. Anything else is said to be left."""
        value = plain(self.part(name))
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
            return value
        self.leaves(self.key(name), value, "it should be a number")
        return None

    def whole(self, name: str) -> int | None:
        """A part that is a whole number from 1; None where it is not given."""
        value = self.number(name)
        if value is None or (value == int(value) and value >= 1):
            return None if value is None else int(value)
        self.leaves(self.key(name), value, "it should be a whole number from 1")
        return None

    def text(self, name: str) -> str | None:
        """A part that is a text; None where it is not given, or empty."""
        value = self.part(name)
        if value is None or isinstance(value, str):
            return value or None
        self.leaves(self.key(name), value, "it should be a text")
        return None


def take(found: Found, tree: Mapping[Any, Any], rules: Mapping[str, Rule], prefix: str = "") -> None:
    """What each key of a tree says. A key that stands in no table is left, with the nearest one."""
    for name, given in tree.items():
        key = prefix + str(name).replace("-", "_")
        value = plain(given)
        inner = any(known.startswith(f"{key}.") for known in rules)
        if inner and isinstance(value, dict):
            take(found, value, rules, f"{key}.")
        elif key not in rules:
            found.leaves(key, value, f"it is not a key that is known here{_nearest(key, rules)}")
        elif value is not None:
            _apply(found, key, given, rules[key])


def _apply(found: Found, key: str, given: Any, rule: Rule) -> None:
    value = plain(given)
    if isinstance(rule, Part | Counts):
        if value != "auto":
            found.parts.setdefault(rule.name if isinstance(rule, Part) else rule.part, (key, value))
    elif isinstance(rule, Ignored):
        found.idle.setdefault(rule.why, []).append(key)
    elif isinstance(rule, Passes):
        found.leaves(key, value, "only DeepSpeed knows it; keep it in a file and name that as strategy.config")
    elif isinstance(rule, Refused):
        if not any(value == neutral and type(value) is type(neutral) for neutral in rule.unless):
            found.leaves(key, value, rule.why)
    elif rule.values:
        spelled = spelling(value)
        if isinstance(spelled, str | int) and spelled in rule.values:
            if rule.values[spelled] is not None:
                found.sets(rule.setting, rule.values[spelled], shown(key, value))
        elif value not in ("auto", ""):
            found.leaves(key, value, rule.why or "it should be true or false")
    elif value not in ("auto", ""):
        found.sets(rule.setting, given, shown(key, value))


def plain(value: Any) -> Any:
    """A value as it is meant: text that is a number or a truth becomes one, as YAML reads 5e-5; a whole float an
    integer."""
    if isinstance(value, str):
        if value.lower() in SWITCHES:
            return SWITCHES[value.lower()]
        try:
            value = float(value) if not value.strip().lower().lstrip("+-").startswith(("nan", "inf")) else value
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def spelling(value: Any) -> Any:
    """A choice in small letters; words of a list with blanks between them."""
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    return value.lower() if isinstance(value, str) else value


def shown(key: str, value: object) -> str:
    """A key and its value for a sentence, without what is private."""
    if PRIVATE.search(key):
        return key
    text = " ".join(without_secrets(str(value)).split())
    return f"{key} {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"


def _nearest(key: str, rules: Mapping[str, Rule]) -> str:
    close = difflib.get_close_matches(key, list(rules), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else "; leave it out, or find its setting in `distrain train --help`"
