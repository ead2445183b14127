"""What a user can be told, and the exit code that tells the cluster what to do next.

Every error of this module is one sentence: what was wrong, where, and what to do. The command line prints the
sentence, never a stack trace. Anything else that escapes is a bug and leaves with `TrainingError`'s code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain_trainer.secrets import without_secrets


def is_retried(exit_code: int) -> bool:
    """Whether a failure with this code may pass, so that the run is started again. Any other ends it for good."""
    return exit_code >= 128


def is_known(exit_code: int) -> bool:
    """Whether an exit code says what the cluster should do: one of this module's, or that of a signal."""
    return exit_code >= 128 or exit_code in {kind.exit_code for kind in DistrainError.__subclasses__()}


def is_of_a_machine(report: "FailureReport") -> bool:
    """Whether a failure is more likely a machine's than the run's: a device that is lost, a process that hangs, nodes
    that do not reach each other."""
    return report.exit_code == BadNode.exit_code and not report.follows and not report.passes


@dataclass(frozen=True)
class FailureReport:
    """A failure, as it travels from the worker's error file to `errors/`, the other nodes and the termination log.

    exit_code: as a shell has it, 128 + n for signal n. sentence: what to tell a person. rank: of the process, None
    where it is none of the workers. node: Kubernetes' name of the machine, None where that is not known. follows:
    whether it follows from another failure, as the loss of a peer does, which explains it better. passes: whether it
    passes by itself, as a volume that does not answer, so that the run waits for it without spending a restart.
    regroups: whether nothing has failed, and all meet again behind a checkpoint because a node is back. A
    secret in the sentence is hidden.
    """

    exit_code: int
    sentence: str
    rank: int | None = None
    node: str | None = None
    follows: bool = False
    passes: bool = False
    regroups: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sentence", without_secrets(self.sentence))

    @staticmethod
    def read(values: Mapping[str, Any]) -> "FailureReport":
        """The report in a JSON object, of which names that are not known here are ignored. Raises KeyError."""
        names = ("rank", "node", "follows", "passes", "regroups")
        optional = {name: values[name] for name in names if name in values}
        return FailureReport(values["exit_code"], values["sentence"], **optional)

    @staticmethod
    def of(error: "DistrainError", rank: int | None = None, node: str | None = None) -> "FailureReport":
        """How an error with a sentence ends a part of a run."""
        return FailureReport(error.exit_code, str(error), rank, node, error.follows, error.passes, error.regroups)


class DistrainError(Exception):
    """A failure with a sentence for a person and an exit code for a machine."""

    exit_code = 70
    follows = False
    passes = False
    regroups = False
    away = False
    """Whether it is about a service that cannot be reached, as a run that has begun waits for."""


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
    passes = True


class LostPeer(DistrainError):
    """Another process or the network is gone."""

    exit_code = 138
    follows = True


class Unreachable(DistrainError):
    """Two machines of the run cannot reach each other."""

    exit_code = 138


class ServiceAway(DistrainError):
    """The Hub, or a tracker that somebody waits for, does not answer now, and may later."""

    exit_code = 138
    passes = True


class DeviceLost(DistrainError):
    """A GPU that the run had is not there any more."""

    exit_code = 138


class BadNode(DistrainError):
    """A machine computes wrong results."""

    exit_code = 138


class Stopped(DistrainError):
    """The run was asked to stop and has left a checkpoint."""

    exit_code = 143


class Regrouping(Stopped):
    """All processes have left behind a checkpoint, so that a node that is back takes part from there on."""

    regroups = True


class StopNow(BaseException):
    """A signal has asked this process to stop, and there is nothing to save. Not an Exception: whatever wraps any error
    in a sentence of its own must not take it for one."""


class Superseded(DistrainError):
    """A newer attempt at the same run has begun; this one may no longer write."""

    exit_code = 138


class RunFailed(DistrainError):
    """This node's part of the run has ended, for the reason that the report gives."""

    def __init__(self, report: FailureReport):
        super().__init__(report.sentence)
        self.exit_code = report.exit_code
        self.report = report


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__
