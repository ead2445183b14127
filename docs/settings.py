"""Writes settings.md, the reference of all settings, from the models themselves."""

import sys
from pathlib import Path

from distrain_trainer.settings.model import MAY_CHANGE, Settings
from distrain_trainer.settings.reader import variable
from distrain_trainer.settings.reference import choices, setting_rows

HEAD = """# Settings

Generated from the models by `make docs`. On the command line `--NAME value`, in a file `section: {name: value}`, in the
environment the variable shown. Command line over environment over file over default. A default of None is decided when
the run starts, written to settings.json, and then holds for the run's life. Settings marked * may change on resume.

| setting | default | what it is | variable |
| --- | --- | --- | --- |
"""


def reference() -> str:
    """The whole page."""
    rows = [
        f"| `{name}`{' *' if name in MAY_CHANGE else ''} | `{default}` | {description}{choices(name, '`')} | "
        f"`{variable(name)}` |"
        for name, default, description in setting_rows(Settings)
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
