"""Writes the `trainer` part of the chart's values.schema.json from the settings' own models; --check only compares.

Two things differ from the settings' schema. A number or a boolean may also be its text and a list a string, because
`--set trainer.optimizer.learning_rate=5e-5` and all of `--set-string` arrive as text (the trainer parses it, and checks
its bounds). And what the chart decides by itself is left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from distrain_trainer.settings.model import Settings

FILE = Path(__file__).parent / "distrain" / "values.schema.json"
OWNED_BY_THE_CHART = {"output_dir", "run_id", "data.cache"}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems")
INTEGER = "[0-9]+"
NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"

Schema = dict[str, Any]


def trainer_schema() -> Schema:
    """The schema of the value `trainer`."""
    whole = Settings.model_json_schema()
    section = _section(whole, "", whole["$defs"])
    return section | {"description": "Settings of the run, each with the trainer's own name. See docs/settings.md."}


def _section(model: Schema, prefix: str, definitions: Schema) -> Schema:
    properties: Schema = {}
    for name, field in model["properties"].items():
        if prefix + name in OWNED_BY_THE_CHART:
            continue
        if "$ref" in field:
            properties[name] = _section(definitions[field["$ref"].rpartition("/")[2]], f"{prefix}{name}.", definitions)
        else:
            properties[name] = _setting(prefix + name, field)
    return _described(model, {"type": "object", "additionalProperties": False, "properties": properties})


def _setting(name: str, field: Schema) -> Schema:
    parts = field.get("anyOf", [field])
    null = [part for part in parts if part.get("type") == "null"]
    words = [word for part in parts for word in part.get("enum", [part["const"]] if "const" in part else [])]
    others = [part for part in parts if part not in null and not {"enum", "const"} & set(part)]
    if len(others) > 1:
        raise SystemExit(f"{FILE.name} cannot say the type of {name}: teach charts/schema.py")
    if not others:
        texts = [str(word) for word in words if not isinstance(word, str)]
        return _described(field, {"enum": words + texts + [None] * bool(null)})
    setting = _type(others[0], words)
    if null:
        setting["type"] = [*([setting["type"]] if isinstance(setting["type"], str) else setting["type"]), "null"]
    return _described(field, setting)


def _type(part: Schema, words: list[str]) -> Schema:
    """One type as values may carry it. words: what may stand in place of a number."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; leave with 1 where it is not current")
    check = parser.parse_args().check
    before = FILE.read_text()
    schema = json.loads(before)
    schema["properties"]["trainer"] = trainer_schema()
    after = json.dumps(schema, indent=2) + "\n"
    if not check:
        FILE.write_text(after)
    elif after != before:
        sys.exit(f"{FILE} is not current; run python charts/schema.py")


if __name__ == "__main__":
    main()
