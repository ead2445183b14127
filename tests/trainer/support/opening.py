"""What tests of data share: rows in a file, opened as a run would, or refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.data.sources import Origin, locate, read
from distrain_trainer.data.table import Part
from distrain_trainer.errors import DistrainError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Data

ROWS: list[dict[str, Any]] = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(tmp_path: Path, task: str = "causal-lm", said: list[str] | None = None, **data: Any) -> Any:
    settings = Settings.model_validate({"task": task, "data": {"cache": str(tmp_path / "cache")} | data})
    folder = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    say = (said if said is not None else []).append
    return read(settings, locate(settings.data), folder, say)


def listed(part: Part | None) -> list[dict[str, Any]]:
    """The rows of a part, with the columns that were read."""
    assert part is not None
    columns = {name: part.values(name) for name in part.rows.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def refusal(tmp_path: Path, task: str = "causal-lm", **data: Any) -> str:
    with pytest.raises(DistrainError) as caught:
        opened(tmp_path, task, **data)
    assert caught.value.exit_code in (64, 65)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def located(**data: Any) -> Origin:
    return locate(Data(**data))
