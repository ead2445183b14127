"""The preflight alone: what two nodes find out about themselves and the network between them, without training."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from runs import COMMAND

Findings = dict[tuple[str, str], dict[str, Any]]


def checked(*nodes: tuple[dict[str, str], Path]) -> tuple[list[int], Findings]:
    """Exit codes, and node and subject -> finding. nodes: environment and output_dir of each."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"PET_NNODES": str(len(nodes)), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    processes = []
    for index, (environment, folder) in enumerate(nodes):
        command = [*COMMAND, "preflight", "--volume", "--processes", "1", "--output_dir", str(folder)]
        own = {"PET_NODE_RANK": str(index), "OMP_NUM_THREADS": "1"} | environment
        processes.append(
            subprocess.Popen(
                command, env=os.environ | place | own, stdout=subprocess.PIPE, text=True, cwd=folder.parent
            )
        )
    said = [process.communicate(timeout=200)[0] for process in processes]
    found = [json.loads(line)["check"] for text in said for line in text.splitlines()]
    return [process.returncode for process in processes], {(f["node"], f["about"]): f for f in found}


def test_two_nodes_measure_the_network_between_them(tmp_path: Path) -> None:
    codes, found = checked(({}, tmp_path / "out"), ({}, tmp_path / "out"))
    assert codes == [0, 0], found
    assert {about for _, about in found} == {"shared memory", "volume", "versions", "latency", "bandwidth"}
    assert all(finding["state"] in ("ok", "warn") for finding in found.values())
    assert " ms" in found["node 0", "latency"]["sentence"] and "GB/s" in found["node 0", "bandwidth"]["sentence"]
    assert not (tmp_path / "out").exists()


def test_what_differs_between_nodes_is_named(tmp_path: Path) -> None:
    codes, found = checked(
        ({"RUN_SETTINGS_HASH": "aaa"}, tmp_path / "out"), ({"RUN_SETTINGS_HASH": "bbb"}, tmp_path / "out")
    )
    assert codes[0] == 1 and found["node 0", "network"]["state"] == "fail"
    assert "the hash of the settings is bbb on node 1 and aaa on node 0" in found["node 0", "network"]["sentence"]
    assert found["node 0", "network"]["mend"] == "start all nodes from the same image and settings"


def test_a_volume_that_is_not_shared_is_found(tmp_path: Path) -> None:
    same = {"RUN_SETTINGS_HASH": "aaa"}
    codes, found = checked((same, tmp_path / "one"), (same, tmp_path / "other"))
    assert codes == [0, 1]
    assert found["node 1", "volume"]["state"] == "fail"
    assert "ReadWriteMany" in found["node 1", "volume"]["mend"]
