"""Reads the settings: command line over environment over file over default.

The same dotted name everywhere: `--batch.tokens 16384`, `DISTRAIN_BATCH__TOKENS=16384`, `batch: {tokens: 16384}`.
Every value of the command line and the environment is text that the settings' own types parse, and every name that
is not a setting is refused with the nearest one. (pydantic-settings reads the variables that it knows and passes over
the others, so a misspelt one would be lost; hence these few lines.)
"""

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_file import apply
from distrain_trainer.settings.documents import load_yaml, yaml_fault
from distrain_trainer.settings.model import Settings, first_fault, flat, nested
from distrain_trainer.settings.other_names import ACCUMULATION, OTHER_NAMES
from distrain_trainer.settings.sections import Names, Section

PREFIX = "DISTRAIN_"
NEAR = 0.6
"""How alike two names must be for one to be taken for a misspelling of the other, of 1 (difflib's ratio)."""
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
    return _placed(apply(settings)[0] if "strategy.config" in places else settings)


def _placed(settings: Settings) -> Settings:
    """The settings with an `output_dir` that can be pasted as it is said.

    In a container the working folder is the root, where `out` is said of /out, which is another folder anywhere else.
    """
    folder = Path(settings.output_dir).expanduser()
    folder = folder.absolute() if Path.cwd() == Path("/") else folder
    return settings if folder == Path(settings.output_dir) else settings.model_copy(update={"output_dir": str(folder)})


def variable(name: str) -> str:
    """The environment variable of a setting: `batch.tokens` -> `DISTRAIN_BATCH__TOKENS`."""
    return PREFIX + name.replace(".", "__").upper()


def split_flags(arguments: Sequence[str], options: Mapping[str, bool]) -> tuple[dict[str, str], list[str]]:
    """Takes `--section.name value`, `--section.name=value` and `--name` (true) out of the arguments.

    options: the command's own options, which stay, and whether each takes a value. Returns (flags, the rest). Raises
    SettingsError for a setting without the value that it needs.
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
        elif equals or takes_next(name, waiting):
            value = value if equals else waiting.pop(0)
            _check_list(name, value, waiting, flags)
            flags[name] = value
        elif name in flat(Settings()) and bool not in _types(name):
            raise SettingsError(f"--{name} needs a value{_example(name)}")
        else:
            flags[name] = "true"
    return flags, rest


def _check_list(name: str, value: str, following: list[str], before: Mapping[str, str]) -> None:
    """Refuses a list of files of which only a part would be taken: given in two flags, or as a pattern that the shell
    has made several words of. following: what stands behind the value."""
    if name not in flat(Settings()) or Names not in _types(name):
        return
    if name in before:
        raise SettingsError(f"--{name} stands twice; give both at once: --{name} {before[name]},{value}")
    kind = Path(value).suffix
    behind = following[0] if following and not following[0].startswith("--") else ""
    if kind and Path(behind).suffix == kind != ".json":
        raise SettingsError(
            f"--{name} takes {value} and not {behind}, which follows it; put quotes around a pattern, such as "
            f"--{name} '{Path(value).parent / f'*{kind}'}', or commas between names"
        )


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
        content = load_yaml(Path(file).read_text())
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {file} is not valid YAML{yaml_fault(error)}") from None
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


def _check_name(name: str, shown: str, spell: Callable[[str], str]) -> None:
    """Refuses a name that is not a setting. spell: a setting's name as it would be written in the same place."""
    names = list(flat(Settings()))
    if name in names:
        return
    if inner := [known for known in names if known.startswith(f"{name}.")]:
        raise SettingsError(f"{shown} is a group of settings, not one; set {spell(inner[0])} or another of its group")
    last = name.rpartition(".")[2].replace("-", "_").lower()
    if last in ACCUMULATION:
        raise SettingsError(
            f"{shown} is not a setting: set {spell('batch.micro_batches')} to this number times the number of "
            "processes, and accumulation follows"
        )
    nearest = _nearest(name.replace("-", "_"), last, names)
    raise SettingsError(
        f"{shown} is not a setting; "
        + (f"did you mean {spell(nearest)}?" if nearest else "distrain train --help lists them all")
    )


def _nearest(name: str, last: str, names: list[str]) -> str | None:
    """The setting that may have been meant; None where nothing is near. last: the part of the name after its dots."""
    ends = {known.rpartition(".")[2]: known for known in reversed(names)}
    if last in OTHER_NAMES:
        return OTHER_NAMES[last]
    if "." not in name and last in ends:
        return ends[last]
    close = difflib.get_close_matches(name, names, n=1, cutoff=NEAR)
    if not close:
        close = [ends[end] for end in difflib.get_close_matches(last, ends, n=1, cutoff=NEAR)]
    return close[0] if close else None


def _sentence(error: ValidationError, places: Mapping[str, str]) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in places), ".".join(path))
    message = first_fault(error)
    if not path:
        return message
    wanted = message.replace("Input should be", "it should be").replace("Input", "the value")
    given = first["input"]
    if get_origin(_field(name).annotation) is tuple and first["type"] in ("missing", "too_long"):
        default = _written(_field(name).default)
        wanted = f"it should be {len(get_args(_field(name).annotation))} values, such as {default}"
        given = _written(given)
    description = _field(name).description or ""
    about = f" ({description.split('. ')[0].rstrip('.')})" if description else ""
    return f"{places.get(name, name)} is {given!r}, but {wanted}{about}"


def allowed_values(name: str) -> tuple[str, ...]:
    """What a setting may be where that is one of a few words or numbers; empty for all others."""
    annotation = _field(name).annotation
    parts = [annotation] if get_origin(annotation) is Literal else list(get_args(annotation))
    kinds = [part for part in parts if part is not type(None)]
    if not kinds or any(get_origin(kind) is not Literal for kind in kinds):
        return ()
    return tuple(str(value) for kind in kinds for value in get_args(kind))


def _example(name: str) -> str:
    """What may follow the setting on the command line, for a sentence."""
    if values := allowed_values(name):
        return f": {', '.join(values[:-1])} or {values[-1]}"
    default = flat(Settings())[name]
    return f", such as --{name} {_written(default)}" if default is not None else ""


def _written(value: object) -> str:
    """A value as the command line has it: lists with commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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
