"""The client as a Python API, for notebooks and pipelines: what the commands do, with dataclasses instead of text."""

from types import TracebackType
from typing import Self

from distrain_k8s.kube.client import PATIENCE, Api, Patience, connect
from distrain_k8s.output import say


class Client:
    """A cluster's runs, as kubectl would find the cluster.

        with Client(namespace="team") as client:
            print([run.name for run in client.list() if run.phase == "Failed"])

    context, namespace, kubeconfig: as kubectl's options. Raises KubeconfigError. Every method raises ClientError where
    the cluster cannot be asked, and NotFound where there is no such run. May be used by several threads.
    """

    def __init__(
        self,
        context: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self.api: Api = connect(context, namespace, kubeconfig, patience, say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the cluster."""
        self.api.close()

    @property
    def namespace(self) -> str:
        """The namespace that is meant where a method is given none."""
        return self.api.namespace
