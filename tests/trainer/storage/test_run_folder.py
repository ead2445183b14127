"""The output folder: whose it is, and what may change when a run is continued in it."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.errors import CheckpointError, SettingsError, VolumeError, VolumeLost
from distrain_trainer.launch.preflight import check_volume
from distrain_trainer.settings.model import Settings, explicit, flat
from distrain_trainer.storage.attempts import begin_attempt, current_attempt
from distrain_trainer.storage.layout import previous_runs
from distrain_trainer.storage.previous import name_for_previous, put_back, remove_previous, set_aside
from distrain_trainer.storage.retry import PERMANENT, volume_error, with_retries
from distrain_trainer.storage.run_folder import claim, is_finished
from runs import FAILING


def started(folder: Path, asked: Settings, **decided: Any) -> None:
    """Leaves what a run that was started with `asked` leaves."""
    settings = asked.model_copy(update=decided)
    folder.mkdir(parents=True, exist_ok=True)
    values = flat(asked)
    record = {
        "run_id": asked.run_id or "abc",
        "settings": settings.model_dump(mode="json"),
        "asked": json.loads(json.dumps({name: values[name] for name in explicit(asked)})),
    }
    (folder / "settings.json").write_text(json.dumps(record))


def asked(folder: Path, **sections: Any) -> Settings:
    return Settings.model_validate({"output_dir": str(folder), **sections})


def test_an_empty_folder_can_be_claimed(tmp_path: Path) -> None:
    claimed = claim(asked(tmp_path / "new" / "out"), resume=True, overwrite=False)
    assert claimed.stored is None
    assert claimed.folder.is_dir()


def test_another_runs_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    started(tmp_path, asked(tmp_path))
    with pytest.raises(SettingsError, match=r"holds another run \(abc\); --resume continues it, --overwrite"):
        claim(asked(tmp_path), resume=False, overwrite=False)


def test_the_same_run_id_is_continued_without_being_asked_and_another_never(tmp_path: Path) -> None:
    started(tmp_path, asked(tmp_path, run_id="one"))
    assert claim(asked(tmp_path, run_id="one"), resume=False, overwrite=False).stored
    for resume in (False, True):
        with pytest.raises(SettingsError, match="holds another run"):
            claim(asked(tmp_path, run_id="two"), resume, overwrite=False)


def test_what_was_decided_holds_for_the_runs_life(tmp_path: Path) -> None:
    first = asked(tmp_path, batch={"tokens": 512}, optimizer={"learning_rate": 0.01})
    started(tmp_path, first, batch=first.batch.model_copy(update={"micro_batches": 4}))
    settings = claim(asked(tmp_path), resume=True, overwrite=False).settings
    assert (settings.batch.tokens, settings.batch.micro_batches) == (512, 4)
    assert settings.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("first", "then", "sentence"),
    [
        (
            {"strategy": {"kind": "zero2", "offload_optimizer": True}},
            "ddp",
            "offload_optimizer is for zero1, zero2 and",
        ),
        ({"optimizer": {"name": "adamw_8bit"}}, "zero2", "adamw_8bit conflicts with strategy.kind zero2"),
        ({"precision": "fp16"}, "fsdp", "strategy.kind is fsdp and precision fp16"),
    ],
)
def test_another_strategy_that_conflicts_with_the_run_is_refused(
    tmp_path: Path, first: dict[str, Any], then: str, sentence: str
) -> None:
    started(tmp_path, asked(tmp_path, **first))
    with pytest.raises(SettingsError, match=sentence):
        claim(asked(tmp_path, strategy={"kind": then}), resume=True, overwrite=False)


def test_length_and_saving_may_change_on_resume(tmp_path: Path) -> None:
    started(tmp_path, asked(tmp_path, schedule={"max_steps": 100}))
    again = asked(tmp_path, schedule={"epochs": 9}, checkpoint={"keep": 5}, data={"workers": 2})
    settings = claim(again, resume=True, overwrite=False).settings
    assert (settings.schedule.epochs, settings.schedule.max_steps) == (9, None)
    assert (settings.checkpoint.keep, settings.data.workers) == (5, 2)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"optimizer": {"learning_rate": 0.02}}, "optimizer.learning_rate is 0.02 but the run in"),
        ({"batch": {"micro_batches": 8}}, "batch.micro_batches is 8 but the run in"),
        ({"batch": {"samples": None}}, "batch.samples is None but the run in"),
        ({"seed": 7}, "was started with 42"),
        ({"task": "masked-lm"}, "was started with 'sequence-classification'"),
        ({"model": {"name": "other"}}, "was started with 'sample'"),
    ],
)
def test_what_defines_the_result_may_not_change_on_resume(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    first = asked(tmp_path)
    started(tmp_path, first, batch=first.batch.model_copy(update={"micro_batches": 4}))
    with pytest.raises(SettingsError) as refused:
        claim(asked(tmp_path, **changed), resume=True, overwrite=False)
    assert sentence in str(refused.value)


def test_a_branch_that_was_resolved_to_a_commit_is_not_a_change(tmp_path: Path) -> None:
    first = asked(tmp_path, model={"name": "a/b", "revision": "main"})
    started(tmp_path, first, model=first.model.model_copy(update={"revision": "c0ffee"}))
    assert claim(first, resume=True, overwrite=False).settings.model.revision == "c0ffee"


def test_checkpoints_without_a_description_are_never_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "manifest.json").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoints but no settings\.json"):
        claim(asked(tmp_path), resume=True, overwrite=False)


def test_a_persons_folders_with_names_like_a_runs_are_no_run(tmp_path: Path) -> None:
    for name in ("checkpoint-notes", "logs", "errors"):
        (tmp_path / name).mkdir()
    assert claim(asked(tmp_path), resume=False, overwrite=False).stored is None


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", [("checkpoint-500",), ("final", "report.html")])
def test_what_a_run_would_write_over_and_has_not_written_is_refused(
    tmp_path: Path, names: tuple[str, ...], overwrite: bool
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    with pytest.raises(SettingsError, match=f"has {' and '.join(names)} from elsewhere, where the run would write"):
        claim(asked(tmp_path), resume=False, overwrite=overwrite)


def finished_run(folder: Path) -> set[str]:
    """Leaves what a finished run leaves, and what a person has put beside it; all its paths."""
    started(folder, asked(folder))
    for name in ("checkpoint-5", "checkpoint-best", "final", "logs", "errors/attempt-1"):
        (folder / name).mkdir(parents=True)
    for name in ("checkpoint-5", "checkpoint-best", "final"):
        (folder / name / "model.safetensors").write_text(name)
        (folder / name / "settings.json").write_text((folder / "settings.json").read_text())
    for name in ("metrics.jsonl", "training_info.json", "report.html", "errors/attempt-1/node-0.json"):
        (folder / name).write_text("{}")
    for name in ("logs/node-0.attempt-1.log", "logs/node-0.attempt-2.log"):
        (folder / name).write_text("a line")
    return paths(folder)


PERSONS = (
    "notes.txt",
    "checkpoint-notes/x",
    "checkpoint-900/trainer_state.json",
    "logs/mine.log",
    "merged/config.json",
)


def paths(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_a_run_has_written_is_set_aside_and_removed(tmp_path: Path) -> None:
    written = finished_run(tmp_path)
    for name in PERSONS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    set_aside(tmp_path, "previous-20261125-044500", attempt=2)
    stays = {*PERSONS, "logs/node-0.attempt-2.log"}
    assert paths(tmp_path) == stays | {f"previous-20261125-044500/{name}" for name in written - stays}
    kept = previous_runs(tmp_path)
    assert name_for_previous(tmp_path) != kept[0].name
    (kept[0] / "notes.txt").write_text("mine")
    assert remove_previous(tmp_path) == []
    assert paths(tmp_path) == stays | {"previous-20261125-044500/notes.txt"}
    (kept[0] / "notes.txt").unlink()
    finished_run(tmp_path / "previous-20261125-044501")
    assert remove_previous(tmp_path) == [kept[0], tmp_path / "previous-20261125-044501"]
    assert paths(tmp_path) == stays


@pytest.mark.parametrize("renames", range(10))
def test_a_run_that_is_set_aside_is_in_one_place_whenever_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    written = finished_run(tmp_path)
    rename = Path.rename
    done: list[Path] = []

    def rename_until_killed(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename_until_killed)
        set_aside(tmp_path, "previous-20261125-044500", attempt=2)
        raise AssertionError(done)
    claimed = claim(asked(tmp_path), resume=True, overwrite=False)
    assert claimed.stored and paths(tmp_path) == written
    put_back(tmp_path)
    assert paths(tmp_path) == written


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match="cannot be written: Not a directory; choose another output_dir"):
        claim(asked(tmp_path / "file" / "out"), resume=False, overwrite=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_said_with_both_users(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o755)
    os.seteuid(1234)
    try:
        with pytest.raises(VolumeError) as refused:
            claim(asked(folder), resume=False, overwrite=False)
    finally:
        os.seteuid(0)
    assert "Permission denied, because this process runs as user 1234:0 and " in str(refused.value)
    assert "belongs to 0:0 (mode 7" in str(refused.value) and "docker run --user $(id -u):0" in str(refused.value)


def test_a_volume_that_fails_for_a_moment_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.json"
    file.symlink_to(FAILING)
    monkeypatch.setattr(time, "sleep", lambda seconds: file.unlink())
    assert claim(asked(tmp_path), resume=True, overwrite=False).stored is None


def test_a_volume_that_keeps_failing_does_not_end_the_run_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(tmp_path)
    started(tmp_path, first)
    claimed = claim(first, resume=True, overwrite=False)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for name in ("training_info.json", "attempt.json", "settings.json"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(FAILING)
    seen = (tmp_path / "attempt.json").read_text
    for act, patience in (
        (lambda: is_finished(claimed), 15.5),
        (lambda: begin_attempt(tmp_path), 15.5),
        (lambda: claim(first, resume=True, overwrite=False), 15.5),
        (lambda: check_volume(seen, "token", tmp_path, patience=0), 0),
    ):
        waited.clear()
        with pytest.raises(VolumeLost, match="cannot be read: Input/output error; the volume may answer again later"):
            act()
        assert sum(waited) == patience
    assert VolumeLost.exit_code == 138


@pytest.mark.parametrize("number", sorted(PERMANENT))
def test_what_lasts_is_not_tried_again(tmp_path: Path, number: int) -> None:
    tries = []

    def act() -> None:
        tries.append(1)
        raise OSError(number, os.strerror(number))

    with pytest.raises(VolumeError, match="cannot be written"):
        with_retries("cannot be written", tmp_path, act)
    assert len(tries) == 1


def test_the_advice_fits_the_reason(tmp_path: Path) -> None:
    reasons = {errno.EROFS: "mount it writable", errno.ENOSPC: "make room", errno.ESTALE: "may answer again later"}
    for number, advice in reasons.items():
        assert advice in str(volume_error("cannot be written", tmp_path, OSError(number, os.strerror(number))))


def test_a_volume_that_renames_no_folder_is_refused_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def as_on_a_bucket(path: Path, target: Path) -> Path:
        if path.is_dir():
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", as_on_a_bucket)
    with pytest.raises(VolumeError, match="cannot be written: Operation not supported"):
        claim(asked(tmp_path), resume=False, overwrite=False)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_settings_that_are_not_ours_are_called_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"settings\.json is damaged"):
        claim(asked(tmp_path), resume=True, overwrite=False)


def test_a_run_of_another_version_is_refused_by_the_setting_that_is_new(tmp_path: Path) -> None:
    started(tmp_path, asked(tmp_path))
    record = json.loads((tmp_path / "settings.json").read_text())
    record["settings"]["batch"]["colour"] = "red"
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(SettingsError, match=r"conflict with the run in .* \(batch\.colour: "):
        claim(asked(tmp_path), resume=True, overwrite=False)


def test_attempts_are_counted(tmp_path: Path) -> None:
    assert current_attempt(tmp_path) == 0
    assert [begin_attempt(tmp_path).attempt, begin_attempt(tmp_path).attempt, current_attempt(tmp_path)] == [1, 2, 2]
