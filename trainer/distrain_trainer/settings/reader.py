"""Reads the settings: command line over environment over file over default.

The same dotted name everywhere: `--batch.tokens 16384`, `DISTRAIN_BATCH__TOKENS=16384`, `batch: {tokens: 16384}`.
Every value of the command line and the environment is text that the settings' own types parse, and every name that
is not a setting is refused with the nearest one. (pydantic-settings reads the variables that it knows and passes over
the others, so a misspelt one would be lost; hence these few lines.)
"""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_file import apply
from distrain_trainer.settings.model import Settings, first_fault, flat, nested
from distrain_trainer.settings.sections import Section

PREFIX = "DISTRAIN_"
SWITCH_VALUES = ("true", "t", "yes", "y", "on", "1", "false", "f", "no", "n", "off", "0", "null", "none")
"""What may stand behind a setting that is true or false; other words behind it are not its value."""


def read_settings(
    file: str | None,
    flags: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
    base: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a run, checked.

    file: YAML or JSON. flags: dotted names to text, from the command line. base: dotted names to values that stand in
    for the defaults. hyperparameters: as flags, from a service that starts the run without a command line; flags go
    over them. Raises SettingsError (64), one sentence.
    """
    sources: list[tuple[str, dict[str, Any]]] = [
        (f"{{}} in {file}", _from_file(file) if file else {}),
        ("the environment variable {}", _from_environment(environment)),
        ("the hyperparameter {}", {name: _value(text) for name, text in (hyperparameters or {}).items()}),
        ("--{}", {name: _value(text) for name, text in flags.items()}),
    ]
    values: dict[str, Any] = dict(base or {})
    places: dict[str, str] = {}
    for place, found in sources:
        for name, value in found.items():
            shown = place.format(variable(name) if "environment" in place else name)
            _check_name(name, shown, variable if "environment" in place else str)
            values[name], places[name] = value, shown
    try:
        settings = Settings.model_validate(nested(values))
    except ValidationError as error:
        raise SettingsError(_sentence(error, places)) from None
    return apply(settings)[0] if "strategy.config" in places else settings


def variable(name: str) -> str:
    """The environment variable of a setting: `batch.tokens` -> `DISTRAIN_BATCH__TOKENS`."""
    return PREFIX + name.replace(".", "__").upper()


def split_flags(arguments: list[str], options: Mapping[str, bool]) -> tuple[dict[str, str], list[str]]:
    """Takes `--section.name value`, `--section.name=value` and `--name` (true) out of the arguments.

    options: the command's own options, which stay, and whether each takes a value. Returns (flags, the rest).
    """
    flags: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or argument == "--":
            rest.append(argument)
        elif name in options:
            rest.append(argument)
            if options[name] and not equals and waiting:
                rest.append(waiting.pop(0))
        elif equals:
            flags[name] = value
        else:
            flags[name] = waiting.pop(0) if takes_next(name, waiting) else "true"
    return flags, rest


def takes_next(name: str, following: list[str]) -> bool:
    """Whether the first of the following arguments is the value of `--name`, a setting's.

    One that is true or false leaves a word alone that is neither: `--deterministic run.yaml`.
    """
    if not following or following[0].startswith("--"):
        return False
    is_switch = name in flat(Settings()) and bool in _types(name)
    return not is_switch or following[0].lower() in SWITCH_VALUES


def _from_file(file: str) -> dict[str, Any]:
    """Dotted names to values of a YAML or JSON file."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "not a text file"
        raise SettingsError(f"the settings file {file} is not valid YAML{line}: {what}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"the settings file {file} holds no settings; write lines such as `batch: {{tokens: 4096}}`"
        )
    return _flattened(content)


def _flattened(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    settings = flat(Settings())
    for name, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in settings:
            values |= _flattened(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Dotted names to values of every variable with our prefix."""
    found = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
    return {name.removeprefix(PREFIX).lower().replace("__", "."): _value(text) for name, text in found.items()}


def _value(text: str) -> Any:
    """None and JSON lists are read; all else stays text for the setting's own type to parse."""
    if text.lower() in ("", "null", "none"):
        return None
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _check_name(name: str, shown: str, spell: Any) -> None:
    """Refuses a name that is not a setting."""
    names = list(flat(Settings()))
    if name in names:
        return
    if any(known.startswith(f"{name}.") for known in names):
        inner = [known for known in names if known.startswith(f"{name}.")]
        raise SettingsError(f"{shown} is a group of settings, not one; set {spell(inner[0])} or another of its group")
    if "." not in name:
        ends = [known for known in names if known.rpartition(".")[2] == name]
        nearest = ends or difflib.get_close_matches(name, names, n=1, cutoff=0)
    else:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)
    raise SettingsError(f"{shown} is not a setting; did you mean {spell(nearest[0])}?")


def _sentence(error: ValidationError, places: Mapping[str, str]) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in places), ".".join(path))
    message = first_fault(error)
    if not path:
        return message
    wanted = message.replace("Input should be", "it should be").replace("Input", "the value")
    description = _field(name).description or ""
    about = f" ({description.split('. ')[0].rstrip('.')})" if description else ""
    return f"{places.get(name, name)} is {first['input']!r}, but {wanted}{about}"


def _types(name: str) -> tuple[Any, ...]:
    """The types that a setting may have."""
    annotation = _field(name).annotation
    return get_args(annotation) or (annotation,)


def _field(name: str) -> FieldInfo:
    *sections, last = name.split(".")
    section: type[Section] = Settings
    for part in sections:
        section = type(section.model_fields[part].default)
    return section.model_fields[last]
