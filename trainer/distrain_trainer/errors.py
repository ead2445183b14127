"""What a user can be told, and the exit code that tells the cluster what to do next.

Every error of this module is one sentence: what was wrong, where, and what to do. The command line prints the
sentence, never a stack trace. Anything else that escapes is a bug and leaves with `TrainingError`'s code.
"""


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
