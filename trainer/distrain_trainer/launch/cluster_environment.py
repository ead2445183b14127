"""What the cluster tells a container about itself: the variables that the chart sets, `RUN_` before each name."""

import hashlib
import os
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distrain_trainer.errors import SettingsError

PREFIX = "RUN_"


class ClusterEnvironment(BaseModel):
    """The chart's variables. Each is None, or false, where nobody has set it: the run was not started by the chart."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    gpus_per_node: int | None = Field(None, ge=0)
    """GPUs that each node has been promised. 0: the run trains on the CPU."""
    grace_seconds: float | None = Field(None, gt=0)
    """Seconds between SIGTERM and SIGKILL when a pod is asked to leave."""
    metrics_port: int | None = Field(None, gt=0, lt=2**16)
    """Port of the Prometheus endpoint."""
    node_name: str | None = None
    """Kubernetes' name of this machine."""
    rdma: bool = False
    """Whether the pod has been promised RDMA devices, InfiniBand or RoCE."""
    settings_hash: str | None = None
    """Hash of the release's settings: pods of one run must agree on it."""

    def run_of(self, run_id: str | None) -> str:
        """Tells the cluster's run with this id and these settings from any other, empty where there is no cluster.

        A node of it that comes anew is the replacement of one that is gone.
        """
        if self.settings_hash is None or run_id is None:
            return ""
        return hashlib.sha256(f"{run_id} {self.settings_hash}".encode()).hexdigest()[:16]

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The variables that are set. An empty one counts as not set, and an unknown one is ignored.

        Raises SettingsError where a value cannot be meant.
        """
        values = {name: text for name in cls.model_fields if (text := environment.get(variable(name)))}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            wanted = first["msg"].replace("Input should be", "it should be").split(", unable")[0]
            raise SettingsError(
                f"{variable(str(first['loc'][0]))} is {first['input']!r}, but {wanted}; correct or remove it"
            ) from None


def variable(field: str) -> str:
    """The variable of a field: `node_name` -> `RUN_NODE_NAME`."""
    return PREFIX + field.upper()
