"""What a user gives to `submit`: a file, settings, points of a sweep. It becomes the values of the chart and names."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from distrain_k8s.render import Values, chart_folder
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.documents import load_yaml, yaml_fault
from distrain_trainer.settings.model import Settings

LONGEST = 40
"""Most characters of a name that is generated: those of pods are made from it."""
LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What generated names end in: no vowels, so no words, and nothing that reads like another letter."""
OWNED_BY_THE_CHART = ("output_dir", "run_id", "data.cache")
"""Settings that a file for `distrain train` may hold and that the chart decides: where a pod writes."""
MOST_POINTS = 200
"""Most runs of a sweep."""


def read_values(file: str | None, sets: Sequence[str], flags: Mapping[str, str]) -> Values:
    """The chart's values.

    file: the chart's values, or the trainer's settings as `distrain train` takes them. sets: as Helm's `--set`. flags:
    settings of the trainer by their dotted names. Raises SettingsError.
    """
    content = _content(file) if file else {}
    if file and is_trainer_file(content, file):
        values = Values(more={"trainer": _without(content, OWNED_BY_THE_CHART)}, sets=tuple(sets))
    else:
        values = Values(files=(file,) if file else (), sets=tuple(sets))
    return values.with_settings({name: parsed(text) for name, text in flags.items()})


def _without(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Nested settings without these dotted names."""
    kept: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    for name in names:
        *sections, last = name.split(".")
        node: Any = kept
        for section in sections:
            node = node.get(section) or {}
        node.pop(last, None)
    return kept


def is_trainer_file(content: Mapping[str, Any], file: str) -> bool:
    """Whether a file holds settings of the trainer; else it holds values of the chart. Raises SettingsError."""
    chart = set(json.loads((chart_folder() / "values.schema.json").read_text())["properties"])
    trainer = set(Settings.model_fields)
    names = set(content) - (chart & trainer)
    of_chart, of_trainer = sorted(names & chart), sorted(names & trainer)
    if of_chart and of_trainer:
        raise SettingsError(
            f"{file} holds values of the chart ({of_chart[0]}) and settings of the trainer ({of_trainer[0]}); "
            f"write the latter under trainer: trainer.{of_trainer[0]}"
        )
    return bool(of_trainer) or (bool(content) and not of_chart)


def _content(file: str) -> dict[str, Any]:
    try:
        content = load_yaml(Path(file).read_text())
    except OSError as error:
        raise SettingsError(f"the file {file} cannot be read: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid YAML{yaml_fault(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file} holds neither values of the chart nor settings of the trainer")
    return content


def parsed(text: str) -> Any:
    """A value of the command line: a list stays one, and all else is text, which the trainer parses."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return None if text.lower() in ("null", "none") else text


def run_name(file: str | None) -> str:
    """A name for a run that has none: after its file, with five characters that make it the only one."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(file).stem.lower()).strip("-") if file else ""
    stem = re.sub(r"^[^a-z]+", "", stem)[: LONGEST - 6].strip("-") or "run"
    return f"{stem}-{''.join(secrets.choice(LETTERS) for _ in range(5))}"


def sweep_points(sweeps: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of the values, each as settings by their dotted names.

    sweeps: `optimizer.learning_rate=1e-5,3e-5` each. Raises SettingsError.
    """
    axes: dict[str, list[Any]] = {}
    for text in sweeps:
        name, equals, listed = text.partition("=")
        name = name.strip().removeprefix("trainer.")
        values = [parsed(value.strip()) for value in split_values(listed)]
        if not equals or not name or "" in values:
            raise SettingsError(f"--sweep {text} names no values; write --sweep optimizer.learning_rate=1e-5,3e-5")
        if name in axes:
            raise SettingsError(f"--sweep {name} is given twice; write all its values into one")
        if len({json.dumps(value) for value in values}) < len(values):
            raise SettingsError(f"--sweep {text} names a value twice; remove one of them")
        axes[name] = values
    points = [dict(zip(axes, combination, strict=True)) for combination in product(*axes.values())]
    if len(points) > MOST_POINTS:
        raise SettingsError(f"the sweep has {len(points)} points, and {MOST_POINTS} are the most; sweep fewer values")
    return points


def split_values(text: str) -> list[str]:
    """Cuts at commas, but not within brackets: `[1,2],[3,4]` is two values."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def shown_point(point: Mapping[str, Any]) -> str:
    """`learning_rate=1e-5 seed=1`: by the last part of each name, or the whole where two share it."""
    lasts = [name.rpartition(".")[2] for name in point]
    return " ".join(
        f"{last if lasts.count(last) == 1 else name}={value if isinstance(value, str) else json.dumps(value)}"
        for (name, value), last in zip(point.items(), lasts, strict=True)
    )


def point_of(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values of these settings, by dotted names, in a run's settings."""
    found: dict[str, Any] = {}
    for name in names:
        node: Any = settings
        for part in name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        found[name] = node
    return found
