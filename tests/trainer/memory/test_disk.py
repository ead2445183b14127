"""What a run takes on its volume."""

from pathlib import Path

import pytest

from distrain_trainer.memory.advice import disk_sentence, document, read_model
from distrain_trainer.memory.disk import disk_need
from distrain_trainer.memory.estimate import Held
from distrain_trainer.memory.optimizer_state import state_bytes
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.files import bytes_of
from distrain_trainer.storage.layout import published_checkpoints
from distrain_trainer.training.run import run

BILLION = 10**9


def need_of(trained: int, frozen: int = 0, *, links: bool = False, evaluates: bool = True, **sections: object) -> int:
    settings = Settings.model_validate(sections)
    sizes = Held(trained, frozen, 0, 0, 0, state_bytes(settings, {"one": (trained,)}))
    return disk_need(sizes, settings, links=links, evaluates=evaluates).total


def test_seven_billion_parameters_take_three_checkpoints_and_two_models() -> None:
    assert need_of(7 * BILLION) == 3 * 84 * BILLION + 2 * 28 * BILLION
    assert need_of(7 * BILLION, links=True) == 3 * 84 * BILLION + 28 * BILLION
    assert need_of(7 * BILLION, links=True, evaluates=False) == 252 * BILLION
    assert need_of(7 * BILLION, checkpoint={"keep": 4}) == 5 * 84 * BILLION + 2 * 28 * BILLION
    assert need_of(BILLION, optimizer={"name": "sgd"}) == 5 * 4 * BILLION
    assert need_of(BILLION, ema={"decay": 0.9}) == need_of(BILLION) + 3 * 4 * BILLION
    assert need_of(BILLION, model={"final_dtype": "bf16"}) == need_of(BILLION) - 2 * BILLION
    assert need_of(BILLION, model={"final_dtype": "bf16"}, links=True) == need_of(BILLION, links=True) + 2 * BILLION
    assert need_of(BILLION, BILLION) == 3 * 16 * BILLION + 2 * 8 * BILLION
    assert need_of(BILLION, 7 * BILLION, lora={"rank": 8}) == need_of(BILLION)


@pytest.mark.parametrize("room", [0, 300, 360, 500, 10_000])
def test_the_most_that_can_stay_fits_and_one_more_does_not(room: int) -> None:
    need = disk_need(Held(7 * BILLION, 0, 0, 0, 0, 56 * BILLION), Settings())
    kept = need.most_kept(room * BILLION)
    assert (kept is None) == (room < 308)
    if kept is not None:
        assert need_of(7 * BILLION, checkpoint={"keep": kept}) <= room * BILLION
        assert need_of(7 * BILLION, checkpoint={"keep": kept + 1}) > room * BILLION


def test_a_run_takes_what_was_foretold(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    asked = Settings.model_validate(
        {
            "model": {"name": str(bert)},
            "data": {"files": [str(few_texts)]},
            "schedule": {"max_steps": 4},
            "batch": {"tokens": 256},
            "checkpoint": {"every_steps": 1},
            "output_dir": str(tmp_path / "out"),
        }
    )
    planned = document(read_model(asked), asked, 1, 8 * BILLION)["disk"]
    assert planned["total"] == 3 * planned["checkpoint"] + planned["models"] and planned["free"] > 0
    run(asked, resume=False)
    for checkpoint in published_checkpoints(tmp_path / "out"):
        tensors = bytes_of(checkpoint.glob("*.safetensors"))
        assert tensors == pytest.approx(planned["checkpoint"], rel=0.1)
    assert disk_sentence(disk_need(Held(7 * BILLION, 0, 0, 0, 0, 56 * BILLION), Settings())) == (
        "308.0 GB: 3 checkpoints of 84.0 GB, the one being written included, and 56.0 GB for models"
    )
