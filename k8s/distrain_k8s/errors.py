"""What the client tells a user, as the trainer's errors do: one sentence, and the exit code of the command.

    DistrainError
      InstallationError      a package or a part of distrain is missing
        HelmMissing          there is no Helm, or none that serves
      ClientError            whatever is between this machine and the run
        KubeconfigError      no kubeconfig, or not this context
        Unreachable          no answer from the API server
          ConnectionLost     it went away after a request was sent: what it did is not known
        Unauthorized         it does not know who we are
        Forbidden            it knows, and says no: `verb`, `resource`, `namespace`
        NotFound             `kind` and `name` that are not there
          NotServed          the cluster has no such kind: an operator is not installed
        Conflict             something of that name exists, or has changed meanwhile
        Rejected             the object is not accepted, by a schema, a quota or a policy
        WebhookDown          a webhook that must be asked does not answer
        HelmError            Helm refused or failed: `stderr`
        HalfMade             a run was left half made, and what of it is there

Every error may be pickled and carries what a program needs as attributes. `mend`: the command that helps, where there
is one.
"""

from typing import ClassVar

from distrain_trainer.errors import DistrainError

NOT_FOUND = 102
"""Exit code: no run of that name."""
NO_CLUSTER = 104
"""Exit code: the cluster cannot be asked, or refuses."""


class InstallationError(DistrainError):
    """A part of distrain itself is not installed."""

    exit_code = 70


class ClientError(DistrainError):
    """Something is wrong between this machine and the run."""

    exit_code = NO_CLUSTER
    cause: ClassVar[str] = "unexpected answer"
    """The row of the table of causes (`diagnose.causes`) that it belongs to."""


class KubeconfigError(ClientError):
    """There is no kubeconfig, or it does not hold what was asked for."""

    exit_code = 64


class Unreachable(ClientError):
    """The API server does not answer."""

    cause = "unreachable API server"


class ConnectionLost(Unreachable):
    """The connection broke after a request that is not repeated was sent: whether it was carried out is not known."""


class Unauthorized(ClientError):
    """The API server does not know who asks."""


class Forbidden(ClientError):
    """The user may not do this. verb, resource, namespace: what, as a Role spells it."""

    cause = "no permission"

    def __init__(self, sentence: str, verb: str = "", resource: str = "", namespace: str = "") -> None:
        super().__init__(sentence)
        self.verb, self.resource, self.namespace = verb, resource, namespace


class NotFound(ClientError):
    """An object is not there. kind, name: which."""

    exit_code = NOT_FOUND

    def __init__(self, sentence: str, kind: str = "", name: str = "") -> None:
        super().__init__(sentence)
        self.kind, self.name = kind, name


class NotServed(NotFound):
    """The cluster has no such kind of object."""

    exit_code = NO_CLUSTER
    cause = "CRD not installed"


class Conflict(ClientError):
    """An object of that name exists, or has been changed by somebody else."""


class Rejected(ClientError):
    """The API server does not accept the object. reason: Kubernetes' word, such as `Invalid`."""

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason


class WebhookDown(ClientError):
    """An admission webhook that must be asked does not answer."""

    cause = "webhook down"


class HelmMissing(InstallationError):
    """There is no Helm, or none that serves."""


class HelmError(ClientError):
    """Helm refused or failed. stderr: all that it said."""

    def __init__(self, sentence: str, stderr: str = "") -> None:
        super().__init__(sentence)
        self.stderr = stderr


class HalfMade(ClientError):
    """A run could neither be made nor removed. left: what of it is there, as `kind/name`."""

    def __init__(self, sentence: str, left: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.left = left
