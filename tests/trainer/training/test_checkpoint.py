"""Checkpoints: published whole or not at all, found again, and damage is seen."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distrain_trainer.errors import CheckpointError, DataError, Superseded, VolumeLost
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.api import Parallel, freeze_unreached, parallelize
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.attempts import begin_attempt
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.layout import BEST, published_checkpoints
from distrain_trainer.storage.retry import with_retries
from distrain_trainer.storage.safetensors_writer import SafetensorsWriter
from distrain_trainer.training.checkpoint.format import TrainingState
from distrain_trainer.training.checkpoint.reader import restore
from distrain_trainer.training.checkpoint.retention import Retention
from distrain_trainer.training.checkpoint.writer import CheckpointWriter, write_static
from runs import FAILING

MICRO_BATCH = {
    "input_ids": torch.arange(5, 13).reshape(2, 4),
    "attention_mask": torch.ones(2, 4, dtype=torch.int64),
    "labels": torch.tensor([0, 1]),
}
ALONE = ProcessRank(rank=0, world=1, local_rank=0, local_world=1)


class Lab:
    """A small model under training, and its checkpoints in a folder."""

    def __init__(self, bert: Path, folder: Path, background: bool = False):
        self.folder, self.bert, self.background = folder, bert, background
        self.said: list[str] = []
        self.attempt = begin_attempt(folder).attempt
        self.parallel = self._parallel(seed=1)
        self.retention = Retention(folder, self.attempt, keep=2, say=self.said.append)
        self.checkpoints = self._writer()
        self.state = TrainingState()

    def _parallel(self, seed: int) -> Parallel:
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(self.bert, num_labels=2)
        empty = MICRO_BATCH | {"labels": torch.tensor([-100, -100])}
        module = SummedLoss(model)
        freeze_unreached(module, empty)
        return parallelize(Settings(), Accelerator(cpu=True), module, world=1)

    def _writer(self) -> CheckpointWriter:
        def write_static(folder: Path) -> None:
            module = self.parallel.module
            assert isinstance(module, SummedLoss)
            module.model.config.save_pretrained(folder)
            AutoTokenizer.from_pretrained(self.bert).save_pretrained(folder)

        return CheckpointWriter(
            folder=self.folder,
            process=ALONE,
            attempt=self.attempt,
            fingerprint="data",
            background=self.background,
            parallel=self.parallel,
            write_static=write_static,
            retention=self.retention,
            say=self.said.append,
        )

    def step(self) -> None:
        """One optimizer step."""
        loss, _ = self.parallel.forward(MICRO_BATCH)
        self.parallel.backward(loss)
        self.parallel.step(learning_rate=1e-3)
        self.state.step += 1

    def save(self) -> int | None:
        self.checkpoints.begin(self.state)
        return self.checkpoints.finish()

    def train_and_save(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            assert self.save() == self.state.step

    def restored(self) -> tuple[TrainingState | None, Parallel]:
        """State and model of a fresh process that resumes."""
        parallel = self._parallel(seed=2)
        return self.restore(parallel), parallel

    def restore(self, parallel: Parallel) -> TrainingState | None:
        return restore(self.folder, ALONE, "data", parallel, self.retention, self.said.append)


@pytest.fixture
def lab(bert: Path, tmp_path: Path) -> Lab:
    return Lab(bert, tmp_path)


def everything(parallel: Parallel) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": t.clone() for name in parallel.parameters for key, t in parallel.read(name).items()}


def assert_same(one: Parallel, other: Parallel) -> None:
    left, right = everything(one), everything(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_weights_and_optimizer_come_back_bit_for_bit(lab: Lab) -> None:
    lab.train_and_save(3)
    state, parallel = lab.restored()
    assert state == lab.state
    assert_same(parallel, lab.parallel)


def test_a_checkpoint_is_a_model_for_from_pretrained(lab: Lab) -> None:
    lab.train_and_save(1)
    model = AutoModelForSequenceClassification.from_pretrained(lab.folder / "checkpoint-1", use_safetensors=True)
    loaded = dict(model.named_parameters())
    for name, parameter in lab.parallel.parameters.items():
        assert torch.equal(loaded[name], parameter), name


def test_a_checkpoint_from_the_background_is_of_the_step_it_was_begun_at(bert: Path, tmp_path: Path) -> None:
    lab = Lab(bert, tmp_path, background=True)
    lab.step()
    before = everything(lab.parallel)
    lab.checkpoints.begin(lab.state)
    lab.step()
    assert lab.checkpoints.finish() == 1
    _, parallel = lab.restored()
    assert all(torch.equal(before[name], tensor) for name, tensor in everything(parallel).items())


@pytest.mark.parametrize("background", [True, False])
def test_a_writer_that_ends_by_any_error_publishes_nothing(
    bert: Path, tmp_path: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(bert, tmp_path, background)
    lab.train_and_save(2)
    lab.step()
    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsWriter, "append", lambda self, tensor: int("no"))
        if background:
            assert lab.save() is None
            assert "the checkpoint of step 3 was not written (ValueError: invalid literal" in lab.said[-1]
        else:
            with pytest.raises(ValueError, match="invalid literal"):
                lab.save()
    assert [path.name for path in published_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-1"]


def test_buffers_of_any_type_are_kept(lab: Lab) -> None:
    lab.parallel.buffers = {"counts": torch.tensor([1, 2], dtype=torch.int32), "mask": torch.tensor([True, False])}
    lab.train_and_save(1)
    written = load_file(lab.folder / "checkpoint-1" / "model.safetensors")
    assert all(torch.equal(written[name], buffer) for name, buffer in lab.parallel.buffers.items())
    assert written.keys() > lab.parallel.parameters.keys()


def test_an_error_of_the_volume_that_may_pass_is_no_damage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.train_and_save(2)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    weights = lab.folder / "checkpoint-2" / "model.safetensors"
    aside = weights.rename(lab.folder / "aside")
    weights.symlink_to(FAILING)
    with pytest.raises(VolumeLost, match="cannot be read: Input/output error"):
        lab.restored()
    weights.unlink()
    aside.rename(weights)
    state, _ = lab.restored()
    assert state and state.step == 2 and not any("damaged" in sentence for sentence in lab.said)


def test_a_file_that_a_network_file_system_shows_late_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.train_and_save(2)
    weights = lab.folder / "checkpoint-2" / "model.safetensors"
    aside = weights.rename(lab.folder / "aside")
    monkeypatch.setattr("distrain_trainer.storage.retry.is_local", lambda path: False)
    monkeypatch.setattr(time, "sleep", lambda seconds: aside.rename(weights))
    state, _ = lab.restored()
    assert state and state.step == 2


def test_the_newest_stay_and_the_rest_go(lab: Lab) -> None:
    lab.train_and_save(5)
    assert [path.name for path in published_checkpoints(lab.folder)] == ["checkpoint-5", "checkpoint-4"]
    assert not list(lab.folder.glob("tmp.*"))


def test_an_old_checkpoint_that_cannot_be_removed_does_not_end_the_run(lab: Lab) -> None:
    lab.train_and_save(2)
    (lab.folder / "tmp.discarded.checkpoint-1").write_text("in the way")
    lab.train_and_save(1)
    assert [path.name for path in published_checkpoints(lab.folder)] == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]
    assert any("checkpoint-1 could not be removed (Not a directory)" in text for text in lab.said)


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_skipped_and_that_is_said(lab: Lab, damage: Callable[[Path], None], name: str) -> None:
    lab.train_and_save(2)
    if damage is damage_flip and name == "manifest.json":
        (lab.folder / "checkpoint-2" / name).write_bytes(b"\x00")
    else:
        damage(lab.folder / "checkpoint-2" / name)
    state, _ = lab.restored()
    assert state is not None and state.step == 1
    assert any("checkpoint-2 is damaged" in text and "the one before" in text for text in lab.said)
    assert (lab.folder / "checkpoint-2").exists()


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(lab: Lab) -> None:
    lab.train_and_save(2)
    damage_flip(lab.folder / "checkpoint-2" / "model.safetensors")
    lab.restore(lab.parallel)
    lab.state.step = 2
    lab.train_and_save(1)
    assert [path.name for path in published_checkpoints(lab.folder)] == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]


def test_no_whole_checkpoint_is_an_error_and_never_a_fresh_start(lab: Lab) -> None:
    lab.train_and_save(2)
    for path in published_checkpoints(lab.folder):
        damage_flip(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints") as refused:
        lab.restored()
    assert refused.value.exit_code == 66
    assert len(published_checkpoints(lab.folder)) == 2


def test_a_folder_without_checkpoints_is_a_fresh_start(lab: Lab) -> None:
    assert lab.restored()[0] is None


def test_a_checkpoint_of_other_data_is_refused(lab: Lab) -> None:
    lab.train_and_save(1)
    manifest = lab.folder / "checkpoint-1" / "manifest.json"
    write_json(manifest, json.loads(manifest.read_text()) | {"data": "other"})
    with pytest.raises(DataError, match="not those that"):
        lab.restored()


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint(lab: Lab) -> None:
    lab.train_and_save(1)
    shutil.copytree(lab.folder / "checkpoint-1", lab.folder / "tmp.2.1")
    state, _ = lab.restored()
    assert state is not None and state.step == 1
    lab.retention.clean()
    assert not list(lab.folder.glob("tmp.*"))


def test_an_older_attempt_leaves_without_publishing(lab: Lab) -> None:
    lab.train_and_save(1)
    begin_attempt(lab.folder)
    lab.step()
    lab.checkpoints.begin(lab.state)
    with pytest.raises(Superseded):
        lab.checkpoints.finish()
    assert [path.name for path in published_checkpoints(lab.folder)] == ["checkpoint-1"]


def test_an_older_attempt_writes_over_nothing_and_removes_nothing_of_a_younger(lab: Lab) -> None:
    lab.train_and_save(1)
    (lab.folder / "tmp.7.1").mkdir()
    (lab.folder / "tmp.8.3").mkdir()
    lab.retention.fence.check()
    younger = begin_attempt(lab.folder).attempt
    for look in (lab.retention.fence.check, lab.retention.clean):
        with pytest.raises(Superseded, match=r"attempt 2 at .* has begun; attempt 1 leaves its files alone"):
            look()
    lab.retention.fence.check(lately=True)  # the look before is not old
    Retention(lab.folder, younger, keep=2, say=print).clean()
    assert [path.name for path in lab.folder.glob("tmp.[0-9]*")] == ["tmp.8.3"]


def test_the_best_model_is_kept_apart_and_outlives_its_checkpoint(lab: Lab) -> None:
    for step in range(1, 5):
        lab.step()
        if step == 2:
            lab.state.best = {"metric": "accuracy", "value": 0.5, "step": 2}
        lab.save()
    assert not (lab.folder / "checkpoint-2").exists()
    model = AutoModelForSequenceClassification.from_pretrained(lab.folder / BEST, use_safetensors=True)
    assert model.num_labels == 2
    assert BEST not in [path.name for path in published_checkpoints(lab.folder)]


def test_a_best_model_lost_in_a_kill_is_restored_on_resume(lab: Lab) -> None:
    lab.state.best = {"metric": "accuracy", "value": 0.5, "step": 1}
    lab.train_and_save(2)
    shutil.rmtree(lab.folder / BEST)
    lab.restored()
    assert (lab.folder / BEST / "model.safetensors").exists()


def test_a_full_disk_costs_one_checkpoint_and_no_more(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"needs a small file system of its own, and mount says: {mount.stderr.strip()}")
    try:
        lab = Lab(bert, folder)
        lab.train_and_save(1)
        ballast = folder / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(folder).free - 100_000))
        lab.step()
        assert lab.save() is None
        with pytest.raises(VolumeLost, match="No space left on device; make room, and the run goes on"):
            filled(folder, lambda: with_retries("cannot be written", folder, lambda: begin_attempt(folder)))
        with pytest.raises(OSError, match="No space left on device"):
            filled(folder, lambda: write_static(AutoTokenizer.from_pretrained(bert).save_pretrained, folder))
        assert "No space left on device" in lab.said[-1] and "training continues" in lab.said[-1]
        assert [path.name for path in published_checkpoints(folder)] == ["checkpoint-1"]
        assert not list(folder.glob("tmp.*"))
        ballast.unlink()
        lab.step()
        assert lab.save() == 3
        assert_same(lab.restored()[1], lab.parallel)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(folder: Path, act: Callable[[], object]) -> None:
    """Does something while not a byte is free."""
    last = folder / "last"
    try:
        with last.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        act()
    finally:
        last.unlink()


def test_a_file_written_a_tensor_at_a_time_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
        "half": torch.randn(7).bfloat16(),
        "transposed": torch.randn(4, 6).T,
    }
    path = tmp_path / "x.safetensors"
    file = SafetensorsWriter(path, ((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()))
    for tensor in tensors.values():
        file.append(tensor)
    written = file.close()
    read = load_file(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert written.size == path.stat().st_size
