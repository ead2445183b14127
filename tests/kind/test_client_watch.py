"""The client on the cluster: what it says of runs that work and of runs that do not, each made for real."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import kubectl
from cluster.namespace import Namespace
from distrain_k8s import Client
from distrain_k8s.runs.status import Phase, Run
from release import TINY, Release

TINY_BERT = TINY | {"model": {"name": "/data/bert"}}
LONG = TINY_BERT | {"schedule": {"epochs": 1000}}


@pytest.fixture
def client(namespace: Namespace) -> Iterator[Client]:
    with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as made:
        yield made


@pytest.fixture
def release(namespace: Namespace, image: str, inputs: Path) -> Callable[..., Release]:
    def install(name: str = "run1", change: str = "", **values: Any) -> Release:
        found = Release(namespace, change or image, inputs, {"trainer": TINY_BERT} | values, name=name)
        found.install()
        return found

    return install


def explained(client: Client, namespace: Namespace, cause: str) -> Run:
    """The run, once this cause is seen of it."""

    def look() -> Run | None:
        run = client.status("run1")
        return run if run.cause and run.cause.name == cause else None

    return namespace.wait(f"run1 has the cause {cause}", look, deadline=180, stall=120)


def test_a_run_succeeds_and_the_client_says_so(client: Client, release: Callable[..., Release]) -> None:
    release()
    outcome = client.wait("run1", timeout=300)
    assert (outcome.code, outcome.run and outcome.run.phase) == (0, Phase.SUCCEEDED), outcome.sentence
    progress = client.progress("run1")
    assert progress and (progress.step, progress.steps) == (12, 12)
    assert [run.name for run in client.list()] == ["run1"]


def test_a_wrong_image_tag_is_named(
    client: Client, release: Callable[..., Release], namespace: Namespace, image: str
) -> None:
    wrong = f"{image.rpartition(':')[0]}:nothing"
    release(change=wrong)
    run = explained(client, namespace, "wrong image tag")
    assert run.phase is Phase.PENDING and run.cause and wrong in run.cause.sentence


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"gpus": 1}, "unschedulable: GPU"),
        ({"resources": {"requests": {"cpu": "500"}}}, "unschedulable: CPU"),
        ({"resources": {"requests": {"memory": "9Ti"}}}, "unschedulable: memory"),
        ({"nodeSelector": {"pool": "nowhere"}}, "unschedulable: selector"),
        ({"secrets": {"HF_TOKEN": {"name": "hugging-face", "key": "token"}}}, "missing secret"),
        ({"dataClaims": [{"claimName": "corpus", "mountPath": "/corpus"}]}, "missing claim"),
    ],
)
def test_what_holds_a_run_up_is_named(
    client: Client, release: Callable[..., Release], namespace: Namespace, values: dict[str, Any], cause: str
) -> None:
    release(**values)
    assert explained(client, namespace, cause).phase is Phase.PENDING


def test_memory_that_ran_out_is_named(client: Client, release: Callable[..., Release], namespace: Namespace) -> None:
    few = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    release(resources=few, sharedMemory="16Mi")
    assert explained(client, namespace, "out of memory").phase in (Phase.RESTARTING, Phase.FAILED)


def test_refused_settings_are_told_in_the_trainers_own_words(client: Client, release: Callable[..., Release]) -> None:
    release(trainer=TINY_BERT | {"model": {"name": "/data/nothing"}})
    outcome = client.wait("run1", timeout=180)
    assert outcome.code == 100
    assert "model.name /data/nothing is not a folder here; check the path" in outcome.sentence


def test_logs_go_on_over_a_pod_that_is_made_anew(
    client: Client, release: Callable[..., Release], namespace: Namespace, tmp_path: Path
) -> None:
    release(trainer=LONG)
    file = tmp_path / "log"
    command = (sys.executable, "-m", "distrain_k8s.cli", "logs", "-f", "run1", "-n", namespace.name)
    with file.open("w") as out:
        options = ("--kubeconfig", str(kubectl.KUBECONFIG))
        following = subprocess.Popen([*command, *options], stdout=out, stderr=subprocess.STDOUT)
    try:

        def steps() -> int:
            return file.read_text().count('"loss"')

        namespace.wait("steps are logged", lambda: steps() > 2 or None)
        namespace.kubectl("delete", "pod", "run1-master-0", "--wait=false")
        namespace.wait("the new pod is followed", lambda: "node 0 has a new pod" in file.read_text() or None)
        before = steps()
        namespace.wait("its steps are logged", lambda: steps() > before + 2 or None)
        namespace.helm("uninstall", "run1")
        following.wait(60)
        lines = [line for line in file.read_text().splitlines() if '"loss"' in line]
        assert len(lines) == len(set(lines)), "a line is repeated"
    finally:
        following.kill()
