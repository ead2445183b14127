"""What a run leaves besides its checkpoints."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from distrain_trainer.errors import OutOfTime, SettingsError, VolumeLost
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.storage.layout import published_checkpoints, temporary
from distrain_trainer.training.run import run
from runs import digest


@pytest.mark.parametrize(
    ("machine", "how"), [("", "is written; --resume continues from the newest checkpoint"), ("gpu-1", "is written")]
)
def test_a_run_that_ends_early_says_why_even_if_its_report_cannot_be_written(
    bert: Path,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    how: str,
) -> None:
    monkeypatch.setenv("RUN_NODE_NAME", machine)
    (tmp_path / "training_info.json.tmp").mkdir()  # so that writing training_info.json fails
    asked = {
        "model": {"name": str(bert)},
        "data": {"files": [str(texts)], "evaluation_fraction": 0},
        "batch": {"tokens": 256},
        "max_hours": 1e-9,
        "output_dir": str(tmp_path),
    }
    with pytest.raises(OutOfTime, match=f"{how}$"):
        run(Settings.model_validate(asked), resume=False)
    assert published_checkpoints(tmp_path)
    assert "training_info.json and report.html could not be written (Is a directory)" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small file system of its own, and mount says: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def small_run(bert: Path, texts: Path, output: Path, steps: int) -> Settings:
    return Settings.model_validate(
        {
            "model": {"name": str(bert)},
            "data": {"files": [str(texts)], "evaluation_fraction": 0.1},
            "batch": {"tokens": 256},
            "schedule": {"max_steps": steps},
            "checkpoint": {"every_steps": 2},
            "output_dir": str(output),
        }
    )


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all of a disk but `leave` bytes."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(folder).free - leave))
    return ballast


@pytest.mark.parametrize("room", ["in an older checkpoint", "for the model alone", "for nothing"])
def test_a_full_disk_at_the_end_does_not_cost_the_result(
    bert: Path, few_texts: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], room: str
) -> None:
    output = small_disk / "out"
    run(small_run(bert, few_texts, output, 4), resume=False)
    newest, older = published_checkpoints(output)
    weights = sum(path.stat().st_size for path in newest.glob("model*.safetensors"))
    before = digest(output / "final")
    if room == "in an older checkpoint":
        ballast = fill(small_disk, 3 * weights // 2)
    else:
        shutil.rmtree(older)
        ballast = fill(small_disk, 23 * weights // 10 if room == "for the model alone" else weights // 2)
    capsys.readouterr()
    more = small_run(bert, few_texts, output, 5)
    if room == "for nothing":
        with pytest.raises(VolumeLost, match=f"could be written to {output}; make room there, and the run goes on"):
            run(more, resume=True)
        assert published_checkpoints(output) == [newest] and digest(output / "final") == before
        ballast.unlink()
    run(more, resume=True)
    info = json.loads((output / "training_info.json").read_text())
    assert (info["status"], info["step"]) == ("finished", 5)
    assert digest(output / "final") != before
    assert AutoModelForSequenceClassification.from_pretrained(output / "final", use_safetensors=True)
    said = capsys.readouterr().err
    assert ("was removed to make room for the result" in said) == (room == "in an older checkpoint")
    if room == "for the model alone":
        assert "the model alone was written" in said and published_checkpoints(output) == [newest]
    else:
        assert published_checkpoints(output)[0].name == "checkpoint-5"
    assert not temporary(output)


def test_a_run_that_the_disk_cannot_hold_is_refused_before_it_writes(
    bert: Path, few_texts: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = small_disk / "out"
    asked = small_run(bert, few_texts, output, 4)
    ballast = fill(small_disk, 500_000)
    with pytest.raises(SettingsError, match=r"has room for 0\.\d MB, but the run takes up to .* take a larger volume"):
        run(asked, resume=False)
    assert [path.name for path in output.iterdir()] == ["attempt.json"]
    ballast.unlink()
    many = changed(asked, {"checkpoint.keep": 100})
    with pytest.raises(SettingsError, match=r"set checkpoint\.keep to \d+, or make room"):
        run(many, resume=False)
    run(asked, resume=False)
    said = capsys.readouterr().err
    assert re.search(r"disk: up to [\d.]+ MB: 3 checkpoints of [\d.]+ MB, .* 0\.\d MB for models; \d", said)
