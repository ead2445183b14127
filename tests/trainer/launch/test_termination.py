"""How `distrain train` ends when it cannot go on: codes that the cluster reads, and sentences for a person."""

import errno
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from distrain_k8s.cli import main
from distrain_trainer.errors import FailureReport
from distrain_trainer.launch import termination
from distrain_trainer.launch.termination import read_error_file, report_of, write_error_file
from distrain_trainer.launch.workers import flight_recorder
from distrain_trainer.storage.layout import run_entries
from runs import FAILING


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterable[None]:
    """What a command in this process does to signals is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train(output: Path, *more: str) -> int:
    """The exit code of a run of one process."""
    with pytest.raises(SystemExit) as left:
        main(["train", "--output_dir", str(output), "--processes", "1", *more])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_volume_that_is_away_at_the_start_has_the_pod_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").symlink_to(FAILING)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert train(tmp_path) == 138
    sentence = f"output_dir {tmp_path} cannot be read: Input/output error; the volume may answer again later"
    assert capsys.readouterr().err == f"distrain: {sentence}\n"


def test_a_promise_of_rdma_that_is_not_kept_is_refused_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUN_RDMA", "1")
    assert train(tmp_path / "out") == 64
    assert capsys.readouterr().err.startswith("distrain: RDMA was promised but ")
    monkeypatch.setenv("RUN_RDMA", "maybe")
    assert train(tmp_path / "out") == 64
    assert capsys.readouterr().err.startswith("distrain: RUN_RDMA is 'maybe', but it should be a valid boolean; ")
    assert not (tmp_path / "out").exists()


def test_an_unforeseen_error_of_the_supervisor_leaves_138_a_sentence_and_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distrain_trainer.launch.supervisor.export_metrics", lambda folder, port: 1 / 0)
    (tmp_path / "log").write_text("")
    monkeypatch.setattr(termination, "TERMINATION_LOG", tmp_path / "log")
    assert train(tmp_path) == 138
    (kept,) = (tmp_path / "errors").iterdir()
    assert "Traceback" in kept.read_text() and "ZeroDivisionError" in kept.read_text()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("distrain: unforeseen error of the supervisor: ZeroDivisionError: ")
    assert last == f"distrain: {(tmp_path / 'log').read_text()}"


def test_no_code_ends_the_job_after_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.json"
    file.symlink_to(FAILING)

    def stopped_while_it_waits(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        file.unlink()
        file.write_text("{")

    monkeypatch.setattr(time, "sleep", stopped_while_it_waits)
    assert train(tmp_path) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"distrain: {file} is damaged")
    assert train(tmp_path) == 66
    assert train(tmp_path, "--seed", "x") == 64


def test_a_worker_that_loses_a_file_system_is_restarted_and_one_that_misses_a_file_is_not() -> None:
    report = report_of(OSError(errno.ESTALE, os.strerror(errno.ESTALE)), 3, None)
    assert (report.exit_code, report.rank) == (138, 3)
    assert report.sentence.startswith("a file system or the network failed (OSError: [Errno 116]")
    assert report_of(FileNotFoundError(errno.ENOENT, "No such file"), 0, None).exit_code == 70
    assert report_of(OSError("no model of this name"), 0, None).exit_code == 70


def test_torchrun_and_the_supervisor_read_the_same_error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, report = tmp_path / "error.json", FailureReport(65, "no rows", 3, "gpu-17")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    write_error_file(report)
    assert read_error_file(file) == report
    failure = ProcessFailure(local_rank=3, pid=1, exitcode=65, error_file=str(file))
    assert "no rows" in str(ChildFailedError("worker", {3: failure}))
    assert failure.timestamp > 0


def test_a_broken_gpu_is_told_with_the_name_that_avoid_nodes_takes() -> None:
    error = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
    assert report_of(error, 0, None) == FailureReport(
        138,
        "the GPU of this process failed (AcceleratorError: CUDA error: uncorrectable ECC error encountered); see dmesg "
        "of the node for its Xid",
        0,
    )
    report = report_of(error, 9, "gpu-17")
    assert (report.exit_code, report.rank, report.node) == (138, 9, "gpu-17")
    assert "a GPU of gpu-17 failed" in report.sentence and "put gpu-17 into avoidNodes" in report.sentence


def test_nccls_dumps_stand_beside_the_logs_and_belong_to_the_run(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "node-1.attempt-3.log"
    dump = Path(flight_recorder(log)["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] + "12")
    assert dump == log.with_name("nccl.attempt-3.rank-12")
    log.parent.mkdir()
    dump.write_text("")
    (tmp_path / "settings.json").write_text('{"run_id": "", "settings": {}, "asked": {}}')
    assert dump in run_entries(tmp_path)
