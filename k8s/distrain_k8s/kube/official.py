"""The parts of the official Kubernetes client that are used here, without the rest of it.

`import kubernetes` loads over 700 typed models, which takes longer than a whole `distrain status` should. Who we are
(kubeconfig, exec plugins, OIDC, in-cluster tokens) and how we connect (TLS, proxies) are two of its modules; they are
imported from their files, as members of packages whose `__init__` has not run. What these import for the refresh of an
OIDC token and for a proxy is imported when it is used. Python's list of modules is left as it was, so that a program
which imports `kubernetes` later gets all of it.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from distrain_k8s.installed import need


class Official(NamedTuple):
    """Modules of the official client: `kubernetes.config.kube_config` and so on."""

    kube_config: ModuleType
    incluster_config: ModuleType
    exceptions: ModuleType
    rest: ModuleType
    configuration: ModuleType


@cache
def official() -> Official:
    """The modules, imported once. Raises InstallationError where the package is missing."""
    need("kubernetes", "urllib3", "yaml")
    with _bare_packages():
        configuration = importlib.import_module("kubernetes.client.configuration")
        client = sys.modules["kubernetes.client"]
        if not hasattr(client, "ApiClient"):
            client.Configuration = configuration.Configuration  # type: ignore[attr-defined]
            client.ApiClient = _api_client  # type: ignore[attr-defined]
        return Official(
            importlib.import_module("kubernetes.config.kube_config"),
            importlib.import_module("kubernetes.config.incluster_config"),
            importlib.import_module("kubernetes.config.config_exception"),
            importlib.import_module("kubernetes.client.rest"),
            configuration,
        )


class _Later(ModuleType):
    """A module that is imported when something of it is used. functions: which of its names are callable, so that
    `from ... import name` does not import it either."""

    def __init__(self, name: str, *functions: str) -> None:
        super().__init__(name)
        self.__path__ = []
        for function in functions:
            setattr(self, function, partial(self._call, function))

    def _call(self, function: str, *arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(self.__name__), function)(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(importlib.import_module(self.__name__), name, None)
        return found or importlib.import_module(f"{self.__name__}.{name}")


def _later() -> Iterator[_Later]:
    yield _Later("oauthlib")
    yield _Later("oauthlib.oauth2")
    yield _Later("requests_oauthlib", "OAuth2Session")
    yield _Later("requests")
    yield _Later("requests.utils", "should_bypass_proxies")


def _api_client(*arguments: Any, **options: Any) -> Any:
    """The official ApiClient, which the refresh of an OIDC token needs: imported when it is called."""
    return importlib.import_module("kubernetes.client").ApiClient(*arguments, **options)


@contextmanager
def _bare_packages() -> Iterator[None]:
    """Lets modules of `kubernetes` be imported without its packages' `__init__`; as always where it is imported."""
    if "kubernetes" in sys.modules:
        importlib.import_module("kubernetes.client")
        yield
        return
    spec = find_spec("kubernetes")
    assert spec is not None and spec.submodule_search_locations
    [root] = spec.submodule_search_locations
    for name, folder in (("kubernetes", root), ("kubernetes.client", f"{root}/client")):
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    later = {module.__name__: module for module in _later() if module.__name__ not in sys.modules}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "kubernetes" or name in later]:
            del sys.modules[name]
