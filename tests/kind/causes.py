"""Rows of the table of causes that CI does without (`make release-test`): each brought about for real on the cluster.

What CI has is in `test_client_watch.py`, what damages the cluster in `damage.py`, and what an API server answers to a
command in `tests/k8s/test_real_server.py`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import addons, kubectl
from cluster.kubectl import Object
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from distrain_k8s import Client
from distrain_k8s.runs.status import Phase, Run
from release import TINY, Release

TINY_BERT = TINY | {"model": {"name": "/data/bert"}}
LONG = TINY_BERT | {"schedule": {"epochs": 1000}}
Install = Callable[..., Release]


@pytest.fixture
def client(namespace: Namespace) -> Iterator[Client]:
    with Client(kubeconfig=str(kubectl.KUBECONFIG), namespace=namespace.name) as made:
        yield made


@pytest.fixture
def release(namespace: Namespace, image: str, inputs: Path) -> Install:
    def install(image: str = image, **values: Any) -> Release:
        found = Release(namespace, image, inputs, {"trainer": TINY_BERT} | values)
        found.install()
        return found

    return install


def explained(client: Client, namespace: Namespace, cause: str, deadline: float = 240) -> Run:
    """The run, once this cause is seen of it."""
    others: dict[str, str] = {}

    def look() -> tuple[Run | None, object]:
        run = client.status("run1")
        if run.cause:
            others[run.cause.name] = run.cause.sentence
        return run if run.cause and run.cause.name == cause else None, (str(run.phase), dict(others))

    found = kubectl.wait(f"run1 has the cause {cause}", look, deadline=deadline, stall=deadline)
    assert found.cause
    print(f"{cause}: {found.shown_phase}: {found.cause.sentence}; {found.cause.mend}")
    return found


@pytest.fixture
def taint(cluster: Cluster) -> Iterator[None]:
    """No new pod on the workers."""
    kubectl.run("taint", "node", *cluster.workers, "distrain-test=maintenance:NoSchedule", "--overwrite")
    yield
    kubectl.run("taint", "node", *cluster.workers, "distrain-test-", check=False)


def test_taint(client: Client, release: Install, namespace: Namespace, taint: None) -> None:
    release()
    run = explained(client, namespace, "unschedulable: taint")
    assert run.phase is Phase.PENDING and run.cause and "taint" in run.cause.sentence


def test_resource_quota(client: Client, release: Install, namespace: Namespace) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "0"}},
    }
    namespace.apply(quota)
    namespace.wait("the quota is counted", lambda: namespace.get("resourcequota", "small").get("status") or None)
    release()
    run = explained(client, namespace, "ResourceQuota")
    assert run.cause and "ResourceQuota small" in run.cause.sentence


def test_kueue(client: Client, release: Install, namespace: Namespace) -> None:
    addons.kueue()
    kueue = "kueue.x-k8s.io/v1beta2"
    flavor = {"name": namespace.name, "resources": [{"name": n, "nominalQuota": "0"} for n in ("cpu", "memory")]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [flavor]}]
    namespace.apply(
        {"apiVersion": kueue, "kind": "ResourceFlavor", "metadata": {"name": namespace.name}},
        {
            "apiVersion": kueue,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace.name},
            "spec": {"namespaceSelector": selector, "resourceGroups": groups},
        },
        {
            "apiVersion": kueue,
            "kind": "LocalQueue",
            "metadata": {"name": "queue"},
            "spec": {"clusterQueue": namespace.name},
        },
    )
    release(kueue={"queue": "queue"})
    run = explained(client, namespace, "Kueue waiting")
    assert run.phase is Phase.QUEUED and run.cause and "in the queue queue" in run.cause.sentence
    assert "insufficient" in run.cause.sentence or "quota" in run.cause.sentence
    # A run that waits is stopped through its Workload, since Kueue would undo anything else, and goes on so too.
    client.stop("run1")
    namespace.wait("it is stopped", lambda: client.status("run1").phase is Phase.STOPPED or None)
    client.resume("run1")
    namespace.wait("it waits again", lambda: client.status("run1").phase is Phase.QUEUED or None)


def test_claim_without_a_volume(client: Client, namespace: Namespace, image: str, inputs: Path) -> None:
    values = {"trainer": TINY_BERT, "persistence": {"storageClass": "nowhere"}}
    run = Release(namespace, image, inputs, values)
    kubectl.run("delete", "pv", f"{namespace.name}-run1-checkpoint")
    run.install()
    found = explained(client, namespace, "claim not bound")
    assert found.cause and "run1-checkpoint" in found.cause.sentence and "nowhere" in found.cause.sentence


def test_pod_security(client: Client, release: Install, namespace: Namespace) -> None:
    """The operator's own init container of workers is not restricted."""
    namespace.enforce("restricted")
    release(nodes=2)
    run = explained(client, namespace, "pod refused")
    assert run.cause and "violates PodSecurity" in run.cause.sentence


def test_webhook(client: Client, release: Install, namespace: Namespace) -> None:
    """A webhook for pods of this namespace alone, behind which there is nobody."""
    name = f"{namespace.name}.distrain.test"
    hook = {
        "name": name,
        "clientConfig": {"service": {"namespace": namespace.name, "name": "nobody", "path": "/"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    kind = "ValidatingWebhookConfiguration"
    kubectl.apply(
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]}
    )
    try:
        release()
        run = explained(client, namespace, "webhook down")
        assert run.cause and name in run.cause.sentence
    finally:
        kubectl.run("delete", kind.lower(), name)


def test_eviction(client: Client, release: Install, namespace: Namespace) -> None:
    """The run writes more to its machine's disk than it may."""
    few = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"ephemeral-storage": "1Mi"}}
    run = release(resources=few, trainer=LONG)
    pod = namespace.wait("it runs", lambda: next((p for p in run.pods() if p["status"]["phase"] == "Running"), None))
    namespace.execute(pod["metadata"]["name"], "sh", "-c", "head -c 50000000 /dev/zero > /tmp/waste")
    found = explained(client, namespace, "evicted")
    assert found.cause and "ephemeral" in found.cause.sentence


def test_data_error(client: Client, release: Install, namespace: Namespace) -> None:
    release(trainer=TINY_BERT | {"data": TINY["data"] | {"text_column": "nothing"}})
    outcome = client.wait("run1", timeout=240)
    assert outcome.code == 100 and outcome.run and outcome.run.cause
    print(outcome.run.cause)
    assert outcome.run.cause.name in ("data error", "settings refused") and "nothing" in outcome.sentence


def test_a_pod_that_never_starts(client: Client, release: Install, namespace: Namespace, cluster: Cluster) -> None:
    """An image without distrain in it."""
    release(image=cluster.shell_image)
    run = explained(client, namespace, "recreated again and again")
    assert run.cause and "never started" in run.cause.sentence


def test_restarts_that_are_used_up(client: Client, release: Install, namespace: Namespace) -> None:
    """The worker is killed whenever it is there."""
    release(trainer=LONG | {"checkpoint": {"max_restarts": 1, "every_minutes": 600}})
    kill = "for p in $(cat /proc/1/task/1/children); do kill -9 $p; done"

    def look() -> Run | None:
        run = client.status("run1")
        if run.phase is Phase.RUNNING and client.progress("run1"):
            namespace.kubectl("exec", "run1-master-0", "--", "sh", "-c", kill, check=False)
        return run if run.phase is Phase.FAILED else None

    run = namespace.wait("it gives up", look, deadline=400, stall=400)
    assert run.cause and run.cause.name == "restarts used up", run.cause
    print(run.cause)
    assert "max_restarts" in run.cause.sentence


def ending(name: str, image: str, node: str, script: str) -> Object:
    """A job of somebody else's, whose only pod ends as the script says, on one machine."""
    container = {"name": "pytorch", "image": image, "command": ["sh", "-c", script]}
    spec = {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [container]}
    replica = {"replicas": 1, "restartPolicy": "ExitCode", "template": {"spec": spec}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": {"Master": replica}},
    }


def test_a_lost_peer_and_the_same_node_twice(client: Client, namespace: Namespace, cluster: Cluster) -> None:
    """A job that was not made by the chart, which ends with 138 on one machine, again and again."""
    script = "echo lost node 1 > /dev/termination-log; sleep 6; exit 138"
    namespace.apply(ending("run1", cluster.shell_image, cluster.workers[0], script))
    run = explained(client, namespace, "lost peer")
    assert run.phase is Phase.RESTARTING and run.cause
    run = explained(client, namespace, "same node failing twice")
    assert run.cause and cluster.workers[0] in run.cause.sentence
    assert run.cause.mend.startswith("correct its manifest")
    assert [found.name for found in client.list(foreign=True)] == ["run1"] and not client.list()


def test_asked_to_leave(client: Client, release: Install, namespace: Namespace) -> None:
    run = release(trainer=LONG, nodes=2)
    namespace.wait("it trains", lambda: (run.folder / "metrics.jsonl").exists() or None, deadline=240)
    namespace.kubectl("delete", "pod", "run1-worker-0", "--wait=false")
    found = explained(client, namespace, "asked to leave")
    assert found.phase is Phase.RESTARTING and json.dumps(found.cause and found.cause.sentence)
