"""What the client tells a user, as the trainer's errors do: one sentence, and the exit code of the command."""

from distrain_trainer.errors import DistrainError


class InstallationError(DistrainError):
    """A part of distrain itself is not installed."""

    exit_code = 70
