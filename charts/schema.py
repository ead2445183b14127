"""Writes two files of the chart; --check only compares them.

values.schema.json: its part `trainer`, from the trainer's models of its settings. It differs from their own schema in
three ways. A number or a boolean may also be text and a list a string, because `--set
trainer.optimizer.learning_rate=5e-5` and everything that `--set-string` sets arrive as text (the trainer parses it and
checks its bounds). Everything may be null, which is the default. And what the chart decides is left out.

defaults.yaml: the defaults of values.yaml, which Helm keeps from templates, and the settings to which null is a value.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from distrain_trainer.settings.model import Settings

CHART = Path(__file__).parent / "distrain"
SCHEMA = CHART / "values.schema.json"
DEFAULTS = CHART / "defaults.yaml"
OWNED_BY_THE_CHART = {"output_dir", "run_id", "data.cache"}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems")
INTEGER = "[0-9]+"
NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"

Schema = dict[str, Any]


def trainer_schema() -> Schema:
    """The schema of the value `trainer`."""
    whole = Settings.model_json_schema()
    section = _section(whole, "", whole["$defs"])
    return section | {"description": "Settings of the trainer under their own names. See docs/settings.md."}


def nullable() -> list[str]:
    """Names of the settings to which null is a value of its own: it is allowed, and is not the default."""
    whole = Settings.model_json_schema()
    return [
        name
        for name, field in _fields(whole, "", whole["$defs"])
        if _allows_null(field) and field["default"] is not None
    ]


def _fields(model: Schema, prefix: str, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """Dotted name and schema of each setting that the chart leaves to its user."""
    for name, field in model["properties"].items():
        if "$ref" in field:
            yield from _fields(definitions[field["$ref"].rpartition("/")[2]], f"{prefix}{name}.", definitions)
        elif prefix + name not in OWNED_BY_THE_CHART:
            yield prefix + name, field


def _allows_null(field: Schema) -> bool:
    return any(part.get("type") == "null" for part in field.get("anyOf", []))


def _section(model: Schema, prefix: str, definitions: Schema) -> Schema:
    properties: Schema = {}
    for name, field in model["properties"].items():
        if prefix + name in OWNED_BY_THE_CHART:
            continue
        if "$ref" in field:
            properties[name] = _section(definitions[field["$ref"].rpartition("/")[2]], f"{prefix}{name}.", definitions)
        else:
            properties[name] = _setting(prefix + name, field)
    return _described(model, {"type": ["object", "null"], "additionalProperties": False, "properties": properties})


def _setting(name: str, field: Schema) -> Schema:
    parts = field.get("anyOf", [field])
    words = [word for part in parts for word in part.get("enum", [part["const"]] if "const" in part else [])]
    others = [part for part in parts if part.get("type") != "null" and not {"enum", "const"} & set(part)]
    if {"type": "string"} in others and all(part.get("type") in ("integer", "string") for part in others):
        return _described(field, {"type": [*(part["type"] for part in others), "null"]})  # any text, so any number too
    if len(others) > 1:
        raise SystemExit(f"{SCHEMA.name} cannot express the type of {name}; teach charts/schema.py")
    if not others:
        texts = [str(word) for word in words if not isinstance(word, str)]
        return _described(field, {"enum": [*words, *texts, None]})
    setting = _type(others[0], words)
    types = [setting["type"]] if isinstance(setting["type"], str) else setting["type"]
    return _described(field, setting | {"type": [*types, "null"]})


def _type(part: Schema, words: list[str]) -> Schema:
    """One type as values may carry it. words: what a number may also be."""
    if "enum" in part:
        return {"enum": part["enum"]}
    bounds = {name: part[name] for name in BOUNDS if name in part}
    if part["type"] in ("integer", "number"):
        digits = INTEGER if part["type"] == "integer" else NUMBER
        sign = "" if max(part.get("minimum", -1), part.get("exclusiveMinimum", -1)) >= 0 else "[+-]?"
        pattern = f"^({'|'.join([sign + digits, *words])})$"
        return {"type": [part["type"], "string"], **bounds, "pattern": pattern}
    if part["type"] == "array":
        items = part.get("items") or part["prefixItems"][0]
        return {"type": ["array", "string"], **bounds, "items": _type(items, [])}
    if part["type"] == "boolean":
        return {"type": ["boolean", "string"], "pattern": "^(true|false)$"}
    return {"type": part["type"], **bounds}


def _described(source: Schema, target: Schema) -> Schema:
    return {"description": " ".join(source.get("description", "").split()), **target}


def schema_file() -> str:
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["trainer"] = trainer_schema()
    return json.dumps(schema, indent=2) + "\n"


def defaults_file() -> str:
    defaults = {"values": yaml.safe_load((CHART / "values.yaml").read_text()), "nullable": nullable()}
    return "# Written by charts/schema.py (make docs).\n" + yaml.safe_dump(defaults, sort_keys=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not current")
    check = parser.parse_args().check
    for file, text in ((SCHEMA, schema_file()), (DEFAULTS, defaults_file())):
        if not check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"{file} is not current; run python charts/schema.py")


if __name__ == "__main__":
    main()
