"""The promise on a GPU: the same bits twice and after a kill, the same losses under every strategy and as on a CPU."""

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import tiny
from runs import Victim, digest, end, losses, metrics, train
from ways import CASES

pytestmark = pytest.mark.gpu


class Length(NamedTuple):
    """Steps of a run, from checkpoint to checkpoint, and after how many of them a process is killed."""

    steps: int
    every: int
    killed: int


LENGTHS = {"cuda": Length(100, 10, 25), "cpu": Length(30, 5, 8)}

Arguments = Callable[..., list[str]]
"""Takes the name of a case, a folder for the run and further settings; gives the arguments of `distrain`."""
Whole = Callable[[str], Path]
"""Takes the name of a case; gives the folder of a run of it that nobody has disturbed."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models lose by a second thread, and several of these tests run at once."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def length(device: str) -> Length:
    return LENGTHS[device]


@pytest.fixture(scope="session")
def arguments(device: str, length: Length, bert: Path, llama: Path, texts: Path) -> Arguments:
    def of(name: str, output: Path, *more: str) -> list[str]:
        case = CASES[name]
        if case.needs_gpu and device == "cpu":
            pytest.skip("a CPU cannot do this")
        options = {"schedule.max_steps": str(length.steps), "deterministic": "true"} | case.options
        if case.decoder:
            options |= {"task": "causal-lm", "data.long_texts": "truncate", "optimizer.learning_rate": "1e-2"}
        flags = [word for setting, value in options.items() for word in (f"--{setting}", value)]
        return train(llama if case.decoder else bert, texts, output, 1, *flags, *more)

    return of


@pytest.fixture(scope="session")
def whole(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    @functools.cache
    def run(name: str) -> Path:
        output = tmp_path_factory.mktemp("whole") / "out"
        end(Victim(arguments(name, output), output))
        return output

    return run


def check_same(one: Path, other: Path) -> None:
    """Compares two runs bit for bit: losses, the weights of the last model and the state of the optimizer."""
    assert losses(one) == losses(other)
    assert digest(one / "final") == digest(other / "final")
    last = f"checkpoint-{max(losses(one))}"
    assert digest(one / last) == digest(other / last)


@pytest.mark.parametrize("name", ["single", "bf16"])
def test_two_runs_are_the_same_bit_for_bit(name: str, arguments: Arguments, whole: Whole, tmp_path: Path) -> None:
    end(Victim(arguments(name, tmp_path / "again"), tmp_path / "again"))
    check_same(tmp_path / "again", whole(name))


@pytest.mark.parametrize("name", CASES)
def test_a_run_whose_process_is_killed_goes_on_bit_for_bit(
    name: str, length: Length, arguments: Arguments, whole: Whole, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run = Victim(arguments(name, output, "--checkpoint.every_steps", str(length.every)), output)
    assert run.wait_for(lambda: run.step() >= length.killed), end(run)
    os.kill(run.workers()[0], signal.SIGKILL)
    assert "process 0 was killed (out of memory, or by hand); starting again" in end(run)
    resumed = [line["step"] for line in metrics(output) if line.get("event") == "resume"]
    assert resumed and length.every <= resumed[-1] < length.steps
    check_same(output, whole(name))


def test_a_command_that_is_killed_is_continued_bit_for_bit(
    length: Length, arguments: Arguments, whole: Whole, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    given = arguments("single", output, "--checkpoint.every_steps", str(length.every))
    run = Victim(given, output)
    assert run.wait_for(lambda: run.step() >= length.killed), end(run)
    run.kill()
    end(Victim([*given, "--resume"], output))
    check_same(output, whole("single"))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same_losses])
def test_every_strategy_has_the_losses_of_one_process_alone(name: str, length: Length, whole: Whole) -> None:
    wanted = losses(whole("single"))
    assert len(wanted) == length.steps
    assert losses(whole(name)) == pytest.approx(wanted, abs=1e-5)


NEAR = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}
"""Precision -> how far a loss around 1 may be from that of a CPU in fp32."""


@pytest.fixture(scope="module")
def on_a_cpu(device: str, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[int, float]]:
    """Arguments of a run without dropout, which a CPU and a GPU would draw otherwise, and its losses on a CPU."""
    folder = tmp_path_factory.mktemp("on a cpu")
    still = tiny.tiny_bert(folder / "still", dropout=0.0)
    output = folder / "out"
    slowly = ("--optimizer.name", "sgd", "--optimizer.learning_rate", "0.02", "--schedule.max_steps", "20")
    given = train(still, texts, output, 1, *slowly)
    end(Victim(given, output, {"CUDA_VISIBLE_DEVICES": ""}))
    return given, losses(output)


@pytest.mark.parametrize("precision", NEAR)
def test_the_losses_are_those_of_a_cpu(
    precision: str, device: str, on_a_cpu: tuple[list[str], dict[int, float]], tmp_path: Path
) -> None:
    if precision == "fp16" and device == "cpu":
        pytest.skip("a CPU cannot do this")
    given, wanted = on_a_cpu
    output = tmp_path / "out"
    end(Victim([*given, "--precision", precision, "--output_dir", str(output)], output))
    found = losses(output)
    assert len(found) == 20
    assert found == pytest.approx(wanted, abs=NEAR[precision])
