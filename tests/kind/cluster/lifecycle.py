"""The cluster as a whole: up, down, and what state it is in."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cluster import daemon, host, images, kubectl, network, nodes, operator, registry, storage, tools
from cluster.shell import CACHE, Failure, step


class InUse(Failure):
    """Another test run uses the cluster."""


class Cluster(NamedTuple):
    made: bool  # just now, and not found running
    workers: list[str]
    kubeconfig: Path
    shell_image: str


def up() -> Cluster:
    """The cluster, running and healthy."""
    with alone():
        host.prepare()
        for name in ("kind", "helm", "registry"):
            tools.build(name)
        tools.build_kubernetes("kubectl")
        with step("looking at the nodes"):
            fault = nodes.fault()
        if fault:
            if nodes.containers():
                with step(f"removing the old cluster ({fault})"):
                    nodes.delete()
            storage.unmount()
            storage.mount()
            nodes.create()
        with step("connecting nodes, registry and storage"):
            if nodes.made_here():
                network.connect(nodes.NODES)
            registry.start(nodes.NODES)
            nodes.wait_until_ready()
            storage.make_default()
        shell_image = images.shell()
        operator.install()
        return Cluster(bool(fault), nodes.WORKERS, kubectl.KUBECONFIG, shell_image)


def down() -> None:
    """Removes the cluster; what was built stays in the cache. InUse while tests use it."""
    with alone(), nobody_uses_it():
        remove()


def remove() -> None:
    daemon.stop("kwok")
    registry.remove()
    with step("removing the nodes"):
        nodes.delete()
    storage.unmount()


def status() -> str:
    fault = nodes.fault()
    if fault:
        return f"there is no healthy cluster: {fault}"
    return (
        f"export KUBECONFIG={kubectl.KUBECONFIG}\n"
        f"images: podman or docker push {registry.NAME}/NAME:TAG, and use that name in pods\n"
        f"shared storage: {storage.FOLDER}\n" + kubectl.run("get", "nodes,pods", "-A", "-o", "wide")
    )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process at a time makes or removes the cluster."""
    with locked("lock", fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Nobody removes the cluster meanwhile: it is shared by all checkouts of this machine."""
    with locked("users", fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def nobody_uses_it() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked("users", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            raise InUse("another test run uses the cluster: run `make kind-down` when that has ended") from None
        yield


@contextlib.contextmanager
def locked(name: str, how: int) -> Iterator[None]:
    """A lock among processes, which ends with the process at the latest."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / name).open("w") as lock:
        fcntl.flock(lock, how)
        yield
