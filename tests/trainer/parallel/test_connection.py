"""How the processes of a run find each other, however late one of them is."""

import json
import socket
import subprocess
import sys

import pytest
import torch.distributed as dist

from distrain_trainer.errors import Unreachable
from distrain_trainer.parallel.connection import Place, own_address, reach

LATE = """
import datetime, os, sys, time
from distrain_trainer.parallel import connection
from distrain_trainer.parallel.collectives import ProcessRank
connection.PATIENCE = datetime.timedelta(seconds=4)
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1], "WORLD_SIZE": "2"}
rank = 0 if os.fork() else 1
os.environ["RANK"] = str(rank)
if rank == int(sys.argv[2]):
    time.sleep(6)
connection.connect(ProcessRank(rank, 2, rank, 2))
connection.dist.barrier()
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) if rank == 0 else 0)
"""
"""Two processes, one of which is ready later than a message may take."""


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("late", [0, 1])
def test_a_process_that_prepares_data_for_long_is_waited_for(late: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(unused_port()), str(late)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_two_machines_that_cannot_reach_each_other_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    store = dist.HashStore()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        places = [
            Place(0, "gpu-a", "127.0.0.1", port),
            Place(1, "gpu-b", "127.0.0.1", unused_port()),
            Place(2, "gpu-c", "127.0.0.1", port),
        ]
        for place in places:
            store.set(f"place/{place.node}", json.dumps(place.__dict__))
        reach(store, 1, 3)
        with pytest.raises(Unreachable, match=r"^node 2 \(gpu-c\) cannot reach node 1 \(gpu-b\) at 127.0.0.1 \(Connec"):
            reach(store, 2, 3)
    assert Unreachable.exit_code == 138


def test_a_machine_is_reached_on_the_way_to_node_0_or_by_the_interface_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    assert own_address() == "127.0.0.1"
    monkeypatch.setenv("MASTER_ADDR", "192.0.2.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert own_address() in ("127.0.0.1", "::1")
