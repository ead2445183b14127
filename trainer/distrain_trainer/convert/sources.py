"""Reads what is to be converted: a YAML or JSON file, or a shell script with the command that starts a trainer."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.documents import load_yaml, yaml_fault

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
PROGRAMS = ("python", "python3", "torchrun", "accelerate", "deepspeed", "trl", "axolotl", "llamafactory-cli")
TRL = ("sft", "dpo", "grpo", "kto", "rloo", "reward")


@dataclass
class Source:
    """keys: what a file or the arguments of a script say. launcher: options that stand before the script. script: its
    name without folders and ending, or the sub-command of trl; None for a file."""

    keys: dict[Any, Any]
    launcher: dict[Any, Any] = field(default_factory=dict)
    script: str | None = None


def read_source(text: str, name: str) -> Source:
    """What a text says. name: of its file. Raises SettingsError where it is neither settings nor a command."""
    if (command := _command(text)) is not None:
        return _of_command(command, name)
    try:
        tree = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault = yaml_fault(error) if isinstance(error, yaml.YAMLError) else ": it cannot be read"
        raise SettingsError(f"{name} is neither YAML, JSON nor a command{fault}") from None
    if not isinstance(tree, dict) or not tree:
        raise SettingsError(
            f"{name} holds no keys; give an axolotl YAML, arguments of a trainer as YAML or JSON, a file of accelerate "
            "config, or the command that starts a script"
        )
    return Source(tree)


def _command(text: str) -> list[str] | None:
    """The words of the first command that starts a training script, with the script's own variables filled in; None
    where the text is no shell script."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        try:
            words = shlex.split(Template(line.strip().removeprefix("$ ")).safe_substitute(variables), comments=True)
        except ValueError:
            continue
        while words and (words[0] in ("export", "exec", "nohup") or ASSIGNMENT.fullmatch(words[0])):
            if assigned := ASSIGNMENT.fullmatch(words.pop(0)):
                variables[assigned[1]] = assigned[2]
        program = Path(words[0]).name if words else ""
        if (program in PROGRAMS or program.endswith(".py")) and (len(words) > 1 or program.endswith(".py")):
            return words
    return None


def _of_command(words: list[str], name: str) -> Source:
    """What a command says: options of the launcher, the script, and its arguments. Raises SettingsError where there
    is no script, or where its settings are in a file."""
    program = Path(words[0]).name
    if program in ("axolotl", "llamafactory-cli"):
        files = [word for word in words[1:] if word.endswith((".yml", ".yaml"))]
        raise SettingsError(f"{name} starts {program}; convert its file: distrain convert {' '.join(files) or 'FILE'}")
    start = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if start is None and program == "trl":
        start = next((place for place, word in enumerate(words) if word in TRL), None)
    if start is None and "-m" in words[:-1]:
        start = words.index("-m") + 1
    if start is None:
        raise SettingsError(f"{name} starts no script; give the whole command, such as python run_glue.py --seed 1")
    script = Path(words[start]).name.removesuffix(".py").rpartition(".")[2]
    arguments = words[start + 1 :]
    if program == "trl":
        arguments = words[1:start] + arguments
    if len(arguments) == 1 and arguments[0].endswith((".json", ".yaml", ".yml")):
        raise SettingsError(f"{name} reads its arguments from a file; distrain convert {arguments[0]}")
    return Source(_options(arguments), _options(words[1:start]) if program != "trl" else {}, script)


def _options(words: list[str]) -> dict[Any, Any]:
    """`--name value`, `--name=value`, `--name` (true), `--no_name` (false) and `--name a b` (a list). Words that follow
    no option are passed over, as `launch` is."""
    found: dict[Any, Any] = {}
    name = ""
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            name, equals, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            found[name] = _value(value) if equals else True
            if equals:
                name = ""
        elif name:
            before = found[name]
            found[name] = (
                _value(word) if before is True else [*(before if isinstance(before, list) else [before]), word]
            )
    return {key.removeprefix("no_"): False for key, value in found.items() if _is_negation(key, value)} | {
        key: value for key, value in found.items() if not _is_negation(key, value)
    }


def _is_negation(name: str, value: object) -> bool:
    """Whether an option is another one turned off, as HfArgumentParser makes them."""
    return name.startswith("no_") and value is True and name not in ("no_cuda", "no_python")


def _value(text: str) -> Any:
    """JSON in braces or brackets is read; all else stays text."""
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
