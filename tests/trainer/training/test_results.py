"""What a run leaves besides its checkpoints."""

from pathlib import Path

import pytest

from distrain_trainer.errors import OutOfTime
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.layout import published_checkpoints
from distrain_trainer.training.run import run


def test_a_run_that_ends_early_says_why_even_if_its_report_cannot_be_written(
    bert: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training_info.json.tmp").mkdir()  # so that writing training_info.json fails
    asked = {
        "model": {"name": str(bert)},
        "data": {"files": [str(texts)], "evaluation_fraction": 0},
        "batch": {"tokens": 256},
        "max_hours": 1e-9,
        "output_dir": str(tmp_path),
    }
    with pytest.raises(OutOfTime, match="is written"):
        run(Settings.model_validate(asked), resume=False)
    assert published_checkpoints(tmp_path)
    assert "training_info.json and report.html could not be written (Is a directory)" in capsys.readouterr().err
