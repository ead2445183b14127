"""Machines of a network of their own: network namespaces on a bridge, as pods on a node are."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Machine:
    """A network namespace. address: where the others reach it."""

    namespace: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What a command begins with that runs in it."""
        return ("ip", "netns", "exec", self.namespace)

    @contextmanager
    def cut_off_from(self, other: "Machine") -> Iterator[None]:
        """What it sends to another machine is lost meanwhile, without a word."""
        entry = (other.address, "dev", "eth0")
        ip("-n", self.namespace, "neigh", "replace", *entry, "lladdr", "02:00:00:00:00:01", "nud", "permanent")
        try:
            yield
        finally:
            ip("-n", self.namespace, "neigh", "del", *entry)


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Machines that reach each other. Skips the test where this user may make none."""
    if problem := denied():
        pytest.skip(f"network namespaces cannot be made here: {problem}")
    name = f"dt{uuid.uuid4().hex[:6]}"
    with ExitStack() as undo:
        ip("link", "add", name, "type", "bridge")
        undo.callback(ip, "link", "del", name)
        ip("link", "set", name, "up")
        found = []
        for index in range(count):
            machine = Machine(f"{name}-{index}", f"10.213.77.{index + 1}")
            ip("netns", "add", machine.namespace)
            undo.callback(ip, "netns", "del", machine.namespace)
            here = f"{name}v{index}"
            ip("link", "add", here, "master", name, "type", "veth", "peer", "eth0", "netns", machine.namespace)
            ip("link", "set", here, "up")
            for inside in (("link", "set", "lo", "up"), ("link", "set", "eth0", "up")):
                ip("-n", machine.namespace, *inside)
            ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
            found.append(machine)
        yield found


def denied() -> str:
    """Why no network namespace can be made, empty where one can."""
    name = f"dt{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "exec", name, "true")
        ip("netns", "del", name)
    except FileNotFoundError:
        return "ip is not installed"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True, capture_output=True, text=True)
