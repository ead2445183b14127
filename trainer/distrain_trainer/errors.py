"""What a user can be told, and the exit code that tells the cluster what to do next.

Every error of this module is one sentence: what was wrong, where, and what to do. The command line prints the
sentence, never a stack trace. Anything else that escapes is a bug and leaves with `TrainingError`'s code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def is_retried(exit_code: int) -> bool:
    """Whether a failure with this code may pass, so that the run is started again. Any other ends it for good."""
    return exit_code >= 128


@dataclass(frozen=True)
class FailureReport:
    """A failure, as it travels from the worker's error file to `errors/`, the other nodes and the termination log.

    exit_code: as a shell has it, 128 + n for signal n. sentence: what to tell a person. rank: of the process, None
    where it is none of the workers. node: Kubernetes' name of the machine, None where that is not known.
    """

    exit_code: int
    sentence: str
    rank: int | None = None
    node: str | None = None

    @staticmethod
    def read(values: Mapping[str, Any]) -> "FailureReport":
        """The report in a JSON object, of which names that are not known here are ignored. Raises KeyError."""
        return FailureReport(values["exit_code"], values["sentence"], values.get("rank"), values.get("node"))


class DistrainError(Exception):
    """A failure with a sentence for a person and an exit code for a machine."""

    exit_code = 70


class SettingsError(DistrainError):
    """The settings are refused; nothing was started."""

    exit_code = 64


class DataError(DistrainError):
    """The data cannot be used."""

    exit_code = 65


class CheckpointError(DistrainError):
    """Checkpoints exist and none of them is whole."""

    exit_code = 66


class RestartsUsedUp(DistrainError):
    """The run has failed too often without getting on."""

    exit_code = 69


class TrainingError(DistrainError):
    """Training itself failed: a bug, or non-finite gradients beyond the limit."""

    exit_code = 70


class OutOfTime(DistrainError):
    """`max_hours` is reached and the checkpoint is written."""

    exit_code = 71


class VolumeError(DistrainError):
    """The output volume is missing, full at the start, or read-only."""

    exit_code = 74


class VolumeLost(DistrainError):
    """The output volume does not answer now, and may later."""

    exit_code = 138


class LostPeer(DistrainError):
    """Another process or the network is gone, or a device failed."""

    exit_code = 138


class Stopped(DistrainError):
    """The run was asked to stop and has left a checkpoint."""

    exit_code = 143


class Superseded(DistrainError):
    """A newer attempt at the same run has begun; this one may no longer write."""

    exit_code = 138


class RunFailed(DistrainError):
    """This node's part of the run has ended, for the reason that the report gives."""

    def __init__(self, report: FailureReport):
        super().__init__(report.sentence)
        self.exit_code = report.exit_code
        self.report = report
