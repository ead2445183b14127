"""What the nodes of a run tell each other: JSON objects in node 0's store.

Names that are not known here are ignored, because another build may know more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from distrain_trainer.errors import FailureReport

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """The coordinator's signal to start the workers.

    attempt: its number. token: what the volume must show. port: where the workers' process group meets. resume:
    whether they continue a run. nodes: indices of the nodes that take part, in the order of their processes; node 0 is
    the first. nonces: of the members among them, in the same order. coordinator: Kubernetes' name of node 0's machine.
    check: whether the workers check the machines before they train.
    """

    attempt: int
    token: str
    port: int
    resume: bool
    nodes: list[int]
    nonces: list[str]
    coordinator: str = ""
    check: bool = False

    @classmethod
    def read(cls, message: Message) -> Self:
        attempt, token, port = message["attempt"], message["token"], message["port"]
        nodes, nonces = message["nodes"], message["nonces"]
        coordinator, check = message.get("coordinator", ""), message.get("check", False)
        return cls(attempt, token, port, message["resume"], nodes, nonces, coordinator, check)


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended, for all nodes. failure: None where the run is finished. again: whether the nodes meet for
    another attempt."""

    failure: FailureReport | None
    again: bool = False

    @classmethod
    def read(cls, message: Message) -> Self:
        return cls(_report(message.get("failure")), message.get("again", False))


@dataclass(frozen=True)
class Heartbeat:
    """What a member says of itself.

    nonce: tells it from its replacement. facts: what must be the same on all nodes. name: Kubernetes' name of its
    machine. beat: counts its heartbeats. failure: how its workers failed. asked: whether they failed because that node
    was asked to stop. finished: whether its workers have finished.
    """

    nonce: str
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    beat: int = 0
    failure: FailureReport | None = None
    asked: bool = False
    finished: bool = False

    @classmethod
    def read(cls, message: Message) -> Self:
        return cls(
            message["nonce"],
            message.get("facts", {}),
            message.get("name", ""),
            message.get("beat", 0),
            _report(message.get("failure")),
            message.get("asked", False),
            message.get("finished", False),
        )


def to_text(content: Start | AttemptOutcome | Heartbeat) -> str:
    """The message as the store holds it."""
    return json.dumps(asdict(content))


def _report(values: Message | None) -> FailureReport | None:
    return FailureReport.read(values) if values else None
