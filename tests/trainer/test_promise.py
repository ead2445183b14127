"""The promise: a run ends the same whatever dies on the way, and whatever number of processes it ran on."""

import hashlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from conftest import COMMAND, losses, metrics

NO_PROGRESS = 60.0
"""Seconds without any change in the run's folder after which a test gives up."""


def train(bert: Path, texts: Path, output: Path, processes: int, *more: str) -> list[str]:
    return [
        *COMMAND,
        "train",
        *("--model.name", str(bert), "--data.files", str(texts), "--data.evaluation_fraction", "0.15"),
        *("--batch.tokens", "256", "--batch.micro_batches", "4", "--optimizer.learning_rate", "1e-3"),
        *("--processes", str(processes), "--output_dir", str(output), *more),
    ]


def tensors(folder: Path) -> dict[str, object]:
    """All tensors of a model or checkpoint, whatever files they are in."""
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def digest(folder: Path) -> str:
    """A hash of every weight in a folder."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors(folder).items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, which has to be a good one."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done


class Victim:
    """A run in the background that is going to be killed."""

    def __init__(self, command: list[str], output: Path):
        self.output = output
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait_for(self, what) -> bool:
        """Waits until `what()` holds; False when the run has ended before. Fails when nothing moves any more."""
        seen, since = None, time.monotonic()
        while not what():
            if self.process.poll() is not None:
                return False
            now = self._fingerprint()
            if now != seen:
                seen, since = now, time.monotonic()
            assert time.monotonic() - since < NO_PROGRESS, f"no progress in {self.output}"
        return True

    def _fingerprint(self) -> object:
        path = self.output / "metrics.jsonl"
        return (path.stat().st_size if path.exists() else 0, sorted(p.name for p in self.output.glob("*")))

    def step(self) -> int:
        """The newest step in metrics.jsonl."""
        try:
            lines = (self.output / "metrics.jsonl").read_bytes().splitlines()
        except OSError:
            return 0
        return max((int(line.split(b'"step": ')[1].split(b",")[0]) for line in lines if line.endswith(b"}")), default=0)

    def writing(self) -> list[Path]:
        """Checkpoints that are being written."""
        return [path for path in self.output.glob("tmp.[0-9]*") if not (path / "manifest.json").exists()]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_run_killed_ten_times_ends_with_the_same_weights(bert: Path, texts: Path, tmp_path: Path):
    options = ("--schedule.max_steps", "100", "--checkpoint.every_steps", "4", "--evaluation.every_steps", "30")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(train(bert, texts, whole, 4, *options))

    draw, inside_a_write, kills = random.Random(20), 0, 0
    while kills < 10 or not inside_a_write:
        assert kills < 20, "no kill hit a checkpoint write"
        victim = Victim(train(bert, texts, broken, 4, *options, "--resume"), broken)
        moment = min(victim.step() + draw.randint(1, 9), 95)
        alive = victim.wait_for(lambda v=victim, m=moment: v.step() >= m)
        if kills % 3 == 2:
            alive = alive and victim.wait_for(victim.writing)
        victim.kill()
        assert alive, "the run ended before it could be killed"
        kills += 1
        inside_a_write += bool(victim.writing())

    finish(train(bert, texts, broken, 4, *options, "--resume"))
    assert digest(broken / "final") == digest(whole / "final")
    assert digest(broken / "checkpoint-100") == digest(whole / "checkpoint-100")
    assert losses(broken) == losses(whole)
    assert not list(broken.glob("tmp.*"))


def test_one_worker_that_dies_ends_the_run_with_137_and_nothing_is_lost(bert: Path, texts: Path, tmp_path: Path):
    options = ("--schedule.max_steps", "400", "--checkpoint.every_steps", "5")
    victim = Victim(train(bert, texts, tmp_path / "out", 2, *options), tmp_path / "out")
    assert victim.wait_for(lambda: victim.step() >= 10)
    children = Path(f"/proc/{victim.process.pid}/task/{victim.process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = victim.process.communicate(timeout=60)
    assert victim.process.returncode == 137, said
    assert "killed" in said and "Traceback" not in said
    assert list((tmp_path / "out").glob("checkpoint-*"))


SIXTY_STEPS = ("--schedule.max_steps", "60")


@pytest.fixture(scope="module")
def whole(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixty steps that nobody has disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(train(bert, texts, output, 2, *SIXTY_STEPS))
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_leaves_with_143_and_ends_the_same(
    bert: Path, texts: Path, whole: Path, tmp_path: Path, number: signal.Signals
):
    options = (*SIXTY_STEPS, "--checkpoint.background", "true", "--checkpoint.every_steps", "3")
    stopped = tmp_path / "stopped"
    victim = Victim(train(bert, texts, stopped, 2, *options), stopped)
    assert victim.wait_for(lambda: victim.step() >= 7)
    victim.process.send_signal(number)
    _, said = victim.process.communicate(timeout=60)
    assert victim.process.returncode == 143, said
    step = metrics(stopped)[-1]["step"]
    assert f"stopped at step {step} of 60" in said and "Traceback" not in said
    assert (stopped / f"checkpoint-{step}" / "manifest.json").exists()

    finish(train(bert, texts, stopped, 2, *options, "--resume"))
    assert digest(stopped / "final") == digest(whole / "final")
    assert losses(stopped) == losses(whole)


def test_a_second_ctrl_c_leaves_at_once(bert: Path, texts: Path, tmp_path: Path):
    victim = Victim(train(bert, texts, tmp_path / "out", 2, "--schedule.epochs", "500"), tmp_path / "out")
    assert victim.wait_for(lambda: victim.step() >= 5)
    children = Path(f"/proc/{victim.process.pid}/task/{victim.process.pid}/children").read_text().split()
    for child in children:  # so that nobody can answer the first one
        os.kill(int(child), signal.SIGSTOP)
    victim.process.send_signal(signal.SIGINT)
    assert any("stopping" in line for line in victim.process.stderr), "the first Ctrl-C was not answered"
    victim.process.send_signal(signal.SIGINT)
    victim.process.communicate(timeout=60)
    assert victim.process.returncode == 130
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.fixture(scope="module")
def worlds(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The same run with AdamW and with SGD on 1, 2 and 4 processes."""
    folder = tmp_path_factory.mktemp("worlds")
    options = {
        "adamw": ("--schedule.max_steps", "100"),
        "sgd": ("--schedule.max_steps", "20", "--optimizer.name", "sgd", "--optimizer.learning_rate", "0.1"),
    }
    runs = {}
    for name, more in options.items():
        for world in (1, 2, 4):
            output = runs[name, world] = folder / f"{name}-{world}"
            finish(train(bert, texts, output, world, *more))
    return runs


@pytest.mark.parametrize("world", [2, 4])
def test_each_loss_is_the_same_on_any_number_of_processes(worlds: dict[tuple[str, int], Path], world: int):
    alone, together = losses(worlds["adamw", 1]), losses(worlds["adamw", world])
    assert len(alone) == 100
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("world", [2, 4])
def test_sgd_weights_are_the_same_on_any_number_of_processes(worlds: dict[tuple[str, int], Path], world: int):
    alone, together = (tensors(worlds["sgd", w] / "final") for w in (1, world))
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        assert (weight - together[name]).abs().max() <= 1e-6, name


@pytest.mark.parametrize("world", [2, 4])
def test_evaluation_is_the_same_on_any_number_of_processes(worlds: dict[tuple[str, int], Path], world: int):
    alone, together = ([x for x in metrics(worlds["sgd", w]) if "eval_loss" in x][-1] for w in (1, world))
    assert together == pytest.approx(alone, abs=1e-6)
