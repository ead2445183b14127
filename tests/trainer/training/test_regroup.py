"""A node is back: the processes leave behind the next checkpoint, and the run goes on there as if nothing had been."""

from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.errors import Regrouping
from distrain_trainer.launch.signs import Signs, ask_to_regroup, signs_file
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.layout import checkpoint_step, published_checkpoints
from distrain_trainer.training.checkpoint.writer import CheckpointWriter
from distrain_trainer.training.run import run
from runs import losses, metrics


def settings_of(bert: Path, texts: Path, output: Path, **checkpoint: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": {"name": str(bert)},
            "data": {"files": [str(texts)], "evaluation_fraction": 0},
            "batch": {"tokens": 256, "samples": None, "micro_batches": 2},
            "schedule": {"max_steps": 12},
            "checkpoint": {"every_minutes": None} | checkpoint,
            "output_dir": str(output),
        }
    )


@pytest.fixture(scope="module")
def whole(bert: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of a run in which nobody is lost."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run(settings_of(bert, few_texts, output), resume=False)
    return losses(output)


@pytest.fixture
def signs(tmp_path: Path) -> Signs:
    (tmp_path / "scratch").mkdir()
    return Signs(signs_file(tmp_path / "scratch", 0))


def left_at(folder: Path) -> int:
    """The step behind which the processes have left: the newest in the log, and that of the newest checkpoint."""
    lines = metrics(folder)
    assert lines[-1]["event"] == "regroup" and max(losses(folder)) == lines[-1]["step"]
    step: int = lines[-1]["step"]
    assert checkpoint_step(published_checkpoints(folder)[0]) == step
    return step


@pytest.mark.parametrize("background", [False, True])
def test_a_node_that_comes_back_while_a_checkpoint_is_written_is_let_in_behind_the_next(
    bert: Path,
    few_texts: Path,
    tmp_path: Path,
    signs: Signs,
    whole: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
    background: bool,
) -> None:
    settings = settings_of(bert, few_texts, tmp_path / "out", every_steps=4, background=background)
    begin = CheckpointWriter.begin

    def begin_and_come_back(self: CheckpointWriter, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        ask_to_regroup(tmp_path / "scratch", True)

    with monkeypatch.context() as patch, pytest.raises(Regrouping, match="a node is back, and takes part from step 8"):
        patch.setattr(CheckpointWriter, "begin", begin_and_come_back)
        run(settings, resume=False, signs=signs)
    assert left_at(tmp_path / "out") == 8
    ask_to_regroup(tmp_path / "scratch", False)
    run(settings, resume=True, signs=signs)
    assert losses(tmp_path / "out") == whole


def test_without_a_schedule_one_is_written_for_it(bert: Path, few_texts: Path, tmp_path: Path, signs: Signs) -> None:
    ask_to_regroup(tmp_path / "scratch", True)
    with pytest.raises(Regrouping):
        run(settings_of(bert, few_texts, tmp_path / "out"), resume=False, signs=signs)
    assert left_at(tmp_path / "out") == 1


def test_no_step_is_lost_where_the_checkpoint_cannot_be_written(
    bert: Path, few_texts: Path, tmp_path: Path, signs: Signs, whole: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that takes the checkpoint of the end only, where nobody is let in any more."""
    finish = CheckpointWriter.finish

    def fail(self: CheckpointWriter) -> int | None:
        assert self._in_flight is not None
        self._in_flight.error = "No space left on device" if self._in_flight.state.step < 12 else None
        return finish(self)

    monkeypatch.setattr(CheckpointWriter, "finish", fail)
    ask_to_regroup(tmp_path / "scratch", True)
    run(settings_of(bert, few_texts, tmp_path / "out", every_steps=4), resume=False, signs=signs)
    assert losses(tmp_path / "out") == whole
    assert not [line for line in metrics(tmp_path / "out") if line.get("event") == "regroup"]
