"""The client of distrain: what runs on the user's machine.

    from distrain_k8s import Client

    with Client() as client:
        for run in client.list():
            print(run.name, run.phase)

Importing this imports nothing else: `Client` comes when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distrain_k8s.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from distrain_k8s.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
