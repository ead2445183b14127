"""`doctor --network`: pods like those of a run measure the network, and nothing of them stays."""

import copy
import json
import threading
import time
from typing import Any

import pytest

from helm_cluster import HelmCluster, distrain, needs_helm
from made import ago, ended, pod

pytestmark = needs_helm
JOBS = "kubeflow.org/v1/pytorchjobs"
IMAGE = ("--set", "image.repository=registry.local/distrain")


def check(node: str, state: str, about: str, sentence: str, mend: str = "") -> str:
    found = {"node": node, "state": state, "about": about, "sentence": sentence, "mend": mend}
    return json.dumps({"check": found})


def play(there: HelmCluster, end: str) -> dict[str, Any]:
    """Plays the operator and the pods of the preflight, once it is there; its job."""
    while not there.objects.get(JOBS):
        time.sleep(0.05)
    job = there.objects[JOBS][0]
    name = job["metadata"]["name"]
    for rank, who in enumerate(("master", "worker")):
        there.put("pods", pod(name, rank, state=ended(0), phase="Succeeded", helm=False))
        lines = [check(f"node {rank}", "ok", "shared memory", "/dev/shm is large enough")]
        lines += [check("node 0", "warn", "latency", "takes 9.00 ms", "put the pods nearer")] * (rank == 0)
        there.log(f"{name}-{who}-0", "starting", *lines, end=True)
    job["status"] = {"conditions": [{"type": end, "status": "True", "lastTransitionTime": ago(0)}]}
    return copy.deepcopy(job)


def test_what_the_pods_find_is_told_and_nothing_stays(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    jobs: list[dict[str, Any]] = []
    playing = threading.Thread(target=lambda: jobs.append(play(there, "Succeeded")), daemon=True)
    playing.start()
    _, out, err = distrain(capsys, "doctor", "--network", *IMAGE, "-o", "json")
    playing.join(10)
    lines = {line["about"]: line for line in json.loads(out)}
    assert lines["shared memory"]["sentence"] == "node 0, node 1: /dev/shm is large enough", err
    assert (lines["latency"]["state"], lines["latency"]["mend"]) == ("warn", "put the pods nearer")
    replicas = jobs[0]["spec"]["pytorchReplicaSpecs"]
    assert {replica["replicas"] for replica in replicas.values()} == {1} and len(replicas) == 2
    for replica in replicas.values():
        spec = replica["template"]["spec"]
        assert spec["containers"][0]["args"] == ["preflight"] and replica["restartPolicy"] == "Never"
        assert not [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert left(there) == set()


def test_ctrl_c_removes_what_was_made(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def interrupted(*_: Any) -> None:
        seen.append(left(there))
        raise KeyboardInterrupt

    monkeypatch.setattr("distrain_k8s.watch.preflight.wait_for_end", interrupted)
    code, _, _ = distrain(capsys, "doctor", "--network", *IMAGE)
    assert code == 130 and len(seen[0]) >= 3 and left(there) == set()


def test_values_without_the_network_are_refused(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = distrain(capsys, "doctor", *IMAGE)
    assert code == 64 and "add --network" in err
    code, _, err = distrain(capsys, "doctor", "--network", *IMAGE, "--set", "gpus=4")
    assert code == 64 and "set gpus to 8, or gpusPerNode to 2" in err
    code, _, err = distrain(capsys, "doctor", "--network")
    assert code == 64 and "--set image.repository=REGISTRY/distrain" in err and left(there) == set()


def left(there: HelmCluster) -> set[str]:
    """What there is of a preflight but its pods, which the operator removes."""
    return {name for name in there.everything() if "preflight" in name and not name.startswith("pods/")}
