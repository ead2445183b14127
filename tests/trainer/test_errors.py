"""Failures: which end a run for good, and how they are told between processes."""

from dataclasses import asdict

import pytest

from distrain_trainer.errors import (
    CheckpointError,
    DataError,
    DistrainError,
    FailureReport,
    LostPeer,
    OutOfTime,
    RestartsUsedUp,
    RunFailed,
    SettingsError,
    Stopped,
    Superseded,
    TrainingError,
    VolumeError,
    VolumeLost,
    is_retried,
)

LASTING = (SettingsError, DataError, CheckpointError, RestartsUsedUp, TrainingError, OutOfTime, VolumeError)
PASSING = (VolumeLost, LostPeer, Stopped, Superseded)


@pytest.mark.parametrize("kind", [*LASTING, *PASSING])
def test_only_what_may_pass_is_retried(kind: type[DistrainError]) -> None:
    assert is_retried(kind.exit_code) == (kind in PASSING)


def test_what_a_signal_has_ended_is_retried() -> None:
    assert is_retried(128 + 9) and not is_retried(0)


def test_a_report_of_another_build_can_be_read() -> None:
    report = FailureReport(70, "no", 3, "gpu-17")
    assert FailureReport.read(asdict(report) | {"traceback": "..."}) == report
    assert FailureReport.read({"exit_code": 70, "sentence": "no"}) == FailureReport(70, "no")


def test_a_run_that_has_failed_leaves_with_the_code_of_its_report() -> None:
    failed = RunFailed(FailureReport(66, "no whole checkpoint"))
    assert (failed.exit_code, str(failed)) == (66, "no whole checkpoint")
