"""Connects the processes of a run, once each of them is ready, and finds the two machines that cannot reach each other.

A process group has one time-out, for its connection and for all that follows. So the processes meet in its store first,
where one that is still preparing data is waited for; whether it is alive is for the launcher to say.
"""

import json
import os
import socket
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

import psutil
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from distrain_trainer.errors import Unreachable
from distrain_trainer.parallel.collectives import PATIENCE, ProcessRank, backend

READY_WITHIN = timedelta(days=7)
"""How long a process waits for the others to be ready: the launcher ends it where one of them is lost."""
ANSWER = 10.0
"""Seconds within which a machine accepts a connection."""
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
"""Variables that say by which network interface the processes talk."""


@dataclass(frozen=True)
class Place:
    """Where a node can be reached. node: its index. name: Kubernetes' name of the machine, empty where it is not
    known."""

    node: int
    name: str
    address: str
    port: int

    @property
    def title(self) -> str:
        return f"node {self.node} ({self.name})" if self.name else f"node {self.node}"


def connect(process: ProcessRank, name: str | None = None) -> None:
    """Makes the process group of a run of several processes. On all of them.

    name: Kubernetes' name of this machine. Raises Unreachable, and DistError where a process is lost meanwhile.
    """
    if process.world == 1 or dist.is_initialized():
        return
    store, _, _ = next(rendezvous("env://", process.rank, process.world, timeout=READY_WITHIN))
    group = dist.PrefixStore("group", store)
    with closing(socket.socket()) as listener:
        several = process.local_world < process.world
        address = own_address() if several else ""
        if several:
            lead_gloo(address)
        if several and process.local_rank == 0:
            listener.bind(("", 0))
            listener.listen(process.world)
            place = Place(process.node, name or "", address, listener.getsockname()[1])
            store.set(f"place/{process.place}", json.dumps(place.__dict__))
        wait_for_all(store, process)
        if several and process.local_rank == 0:
            reach(store, process.place, process.nodes_here)
        store.set_timeout(PATIENCE)
        dist.init_process_group(backend(), store=group, rank=process.rank, world_size=process.world, timeout=PATIENCE)


def wait_for_all(store: dist.Store, process: ProcessRank) -> None:
    """Waits until every process has come here."""
    if store.add("ready", 1) == process.world:
        store.set("all ready", "")
    store.wait(["all ready"], READY_WITHIN)


def reach(store: dist.Store, position: int, nodes: int) -> None:
    """Connects to every other node, as the process group is about to. Raises Unreachable, with both their names.

    position: of this node among those that take part. nodes: their number.
    """
    places = [Place(**json.loads(store.get(f"place/{index}"))) for index in range(nodes)]
    own = places.pop(position)
    for other in places:
        address = os.environ.get("MASTER_ADDR", "") if other.node == 0 else other.address
        try:
            socket.create_connection((address, other.port), ANSWER).close()
        except OSError as error:
            raise Unreachable(
                f"{own.title} cannot reach {other.title} at {address} ({error.strerror or error}), though "
                "both reach node 0; look at the network policies and routes between these two machines, or set the "
                f"network interface ({INTERFACES[0]})"
            ) from None


def lead_gloo(address: str) -> None:
    """Has gloo listen at this address where the machine's own name leads to none that others reach: gloo would take
    the loopback, to which Debian's /etc/hosts leads a name. A network interface that is set stays."""
    here = interfaces()
    with suppress(OSError):
        named = {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
        if any(is_reachable(found) for found in named & here.keys()):
            return
    if is_reachable(address) and address in here:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", here[address])


def is_reachable(address: str) -> bool:
    """Whether other machines may reach an address of this one."""
    return not ip_address(address.partition("%")[0]).is_loopback


def interfaces() -> dict[str, str]:
    """The addresses of this machine, each with the network interface that has it."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = psutil.net_if_addrs().items()
    return {each.address: name for name, addresses in found for each in addresses if each.family in families}


def own_address() -> str:
    """The address at which other machines reach this one: of the interface that is set, or on the way to node 0."""
    for variable in INTERFACES:
        wanted = os.environ.get(variable, "").split(",")[0].lstrip("=")
        for address, interface in interfaces().items():
            if wanted and interface.startswith(wanted):
                return address
    node_0 = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", 1))
    family, _, _, _, target = socket.getaddrinfo(*node_0, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])
