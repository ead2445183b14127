"""Which cluster, which namespace and who we are there: as kubectl finds them out.

`--context` and `-n` over the kubeconfig, `--kubeconfig` over KUBECONFIG (several files: the first that sets a value
counts) over `~/.kube/config`; where none of them exists, the service account of the pod that we run in.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain_k8s.errors import KubeconfigError
from distrain_k8s.kube.official import official

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_FILE = "~/.kube/config"


@dataclass(frozen=True)
class Identity:
    """configuration: the official client's. context: None in a pod. namespace: where nothing else is said."""

    configuration: Any
    context: str | None
    namespace: str


def read_identity(context: str | None = None, kubeconfig: str | None = None) -> Identity:
    """Raises KubeconfigError."""
    files = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_FILE
    names = [Path(name).expanduser() for name in files.split(os.pathsep) if name]
    found = [str(name) for name in names if name.exists()]
    if kubeconfig and not found:
        raise KubeconfigError(f"there is no kubeconfig {kubeconfig}; check the path")
    if found:
        return _from_files(found, context)
    if not os.environ.get("KUBERNETES_SERVICE_HOST"):
        raise KubeconfigError(
            f"there is no kubeconfig ({files}), and this is not a pod; set KUBECONFIG, or name a file by --kubeconfig"
        )
    if context:
        raise KubeconfigError(f"there is no kubeconfig that could hold the context {context}; leave --context out")
    return _from_pod()


def _from_files(files: list[str], context: str | None) -> Identity:
    modules = official()
    shown = ", ".join(files)
    configuration = _configuration()
    try:
        merged = modules.kube_config.KubeConfigMerger(os.pathsep.join(files))
        contexts = [entry["name"] for entry in merged.config["contexts"].value]
        # The official client takes the last of several files, kubectl the first.
        current = next((c["current-context"] for c in merged.config_files.values() if c.get("current-context")), None)
        wanted = context or current
        if wanted is None:
            raise KubeconfigError(f"{shown} has no current context; name one by --context: {_listed(contexts)}")
        if wanted not in contexts:
            raise KubeconfigError(f"{shown} has no context {wanted}; it has {_listed(contexts)}")
        loader = modules.kube_config.KubeConfigLoader(
            config_dict=merged.config,
            active_context=wanted,
            config_base_path=None,
            config_persister=merged.save_changes,
        )
        loader.load_and_set(configuration)
        entry = loader.current_context["context"]
        clusters = {cluster["name"]: cluster["cluster"] for cluster in merged.config["clusters"].value}
    except KubeconfigError:
        raise
    except Exception as error:  # whatever is wrong with a file that somebody has written
        raise KubeconfigError(f"the kubeconfig {shown} cannot be used: {_one_line(error)}") from None
    if address := clusters[entry["cluster"]].safe_get("proxy-url"):
        configuration.proxy = address
    return Identity(configuration, wanted, entry.get("namespace") or "default")


def _from_pod() -> Identity:
    modules = official()
    configuration = _configuration()
    try:
        modules.incluster_config.load_incluster_config(client_configuration=configuration)
    except modules.exceptions.ConfigException as error:
        raise KubeconfigError(
            f"this pod has no service account to ask the cluster with ({_one_line(error)}); give it one with "
            "automountServiceAccountToken"
        ) from None
    try:
        namespace = (IN_CLUSTER / "namespace").read_text().strip()
    except OSError:
        namespace = "default"
    return Identity(configuration, None, namespace)


def _configuration() -> Any:
    configuration = official().configuration.Configuration()
    # The official client reads the variable and forgets it.
    configuration.no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    return configuration


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
