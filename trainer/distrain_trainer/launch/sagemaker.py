"""The hosts of a SageMaker training job, which a file in each container describes."""

import json
from dataclasses import dataclass
from pathlib import Path

RESOURCES = Path("/opt/ml/input/config/resourceconfig.json")


@dataclass(frozen=True)
class Hosts:
    """names: of all hosts, in the order that all of them agree on. index: of this one."""

    names: list[str]
    index: int


def read_hosts(file: Path = RESOURCES) -> Hosts | None:
    """The hosts of the job that this container is part of, None outside of SageMaker."""
    if not file.exists():
        return None
    description = json.loads(file.read_text())
    names = sorted(description["hosts"])
    return Hosts(names, names.index(description["current_host"]))
