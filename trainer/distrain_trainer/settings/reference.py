"""The reference of all settings: their names, defaults and descriptions."""

import textwrap
from typing import Any

from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import allowed_values, variable
from distrain_trainer.settings.sections import Section


def settings_help() -> str:
    """The reference of all settings, for --help."""
    lines = [
        "settings: --name value on the command line, over the environment, over FILE, over the default",
        f"          --batch.tokens 8192 is {variable('batch.tokens')}=8192 is `batch: {{tokens: 8192}}`",
        "",
    ]
    for name, default, description in setting_rows(Settings):
        lines.append(f"  --{name} [{default}]")
        lines += textwrap.wrap(
            description + choices(name), 92, initial_indent="      ", subsequent_indent="      ", break_on_hyphens=False
        )
    return "\n".join(lines)


def choices(name: str, mark: str = "") -> str:
    """` One of fp32, bf16, fp16.`, to stand behind a description; empty where a setting is no choice. mark: what stands
    on both sides of each."""
    values = allowed_values(name)
    return f" One of {', '.join(f'{mark}{value}{mark}' for value in values)}." if values else ""


def setting_rows(section: type[Section], prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted name, default, description) of every setting."""
    rows: list[tuple[str, Any, str]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            rows += setting_rows(type(field.default), f"{prefix}{name}.")
        else:
            rows.append((prefix + name, field.default, " ".join((field.description or "").split())))
    return rows
