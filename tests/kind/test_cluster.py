"""The cluster itself: names, shared storage, the registry and the operator, across its nodes."""

import json
from typing import Any

import pytest

from cluster import engine, operator, registry, storage
from cluster.kubectl import Object
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from cluster.shell import Failure

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
MEET = """
echo rank $PET_NODE_RANK of $PET_NNODES
if [ $PET_NODE_RANK = 0 ]; then
    echo from the master | nc -l -p $PET_MASTER_PORT
else
    until nc -w 10 $PET_MASTER_ADDR $PET_MASTER_PORT </dev/null; do usleep 200000; done
fi
"""
"""The master's name is there only while it runs, so it stays until the worker has come."""


def pod(name: str, image: str, script: str, node: str | None = None, claim: str | None = None) -> Object:
    """A pod that runs a shell script once, as the trainer's user."""
    container: dict[str, Any] = {"name": "main", "image": image, "command": ["sh", "-euc", script]}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "hostname": name,
        "subdomain": "pods",
        "securityContext": {"runAsUser": storage.OWNER, "runAsGroup": storage.OWNER},
        "containers": [container],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "pods"}}, "spec": spec}


def claim(name: str) -> Object:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def job(name: str, image: str, script: str, workers: int, container: str = "pytorch") -> Object:
    """A PyTorchJob of a shell script, with nothing that Pod Security `restricted` forbids."""
    spec = {
        "securityContext": {"runAsUser": storage.OWNER, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {"name": container, "image": image, "command": ["sh", "-euc", script], "securityContext": RESTRICTED}
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"training.kubeflow.org/job-name": name}},
            }
        ],
    }
    replicas = {
        kind: {"replicas": count, "restartPolicy": "Never", "template": {"spec": spec}}
        for kind, count in (("Master", 1), ("Worker", workers))
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": replicas},
    }


def ended(namespace: Namespace, name: str) -> int:
    """The exit code of a pod's only container, when it has one."""

    def look() -> int | None:
        [status] = namespace.get("pod", name).get("status", {}).get("containerStatuses") or [{}]
        code: int | None = status.get("state", {}).get("terminated", {}).get("exitCode")
        return code

    return namespace.wait(f"pod {name} ended", look, deadline=120)


def test_pods_on_two_nodes_find_and_reach_each_other_by_name(cluster: Cluster, namespace: Namespace) -> None:
    service = {"clusterIP": "None", "selector": {"app": "pods"}, "ports": [{"port": 8080}]}
    namespace.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pods"}, "spec": service})
    serve = "echo hello from $(hostname) | nc -l -p 8080"
    ask = "until nslookup server.pods; do usleep 200000; done; nc -w 10 server.pods 8080 </dev/null"
    namespace.apply(
        pod("server", cluster.shell_image, serve, cluster.workers[0]),
        pod("client", cluster.shell_image, ask, cluster.workers[1]),
    )
    assert ended(namespace, "client") == 0
    assert "hello from server" in namespace.logs("client")
    nodes = {item["metadata"]["name"]: item["spec"]["nodeName"] for item in namespace.pods()}
    assert nodes == {"server": cluster.workers[0], "client": cluster.workers[1]}


def test_both_workers_and_this_machine_share_a_volume(cluster: Cluster, namespace: Namespace) -> None:
    folder = namespace.volume("shared")
    write = "echo from the first > /data/note"
    read = "until [ -s /data/note ]; do usleep 200000; done; cat /data/note; echo seen > /data/answer"
    namespace.apply(
        claim("shared"),
        pod("writer", cluster.shell_image, write, cluster.workers[0], "shared"),
        pod("reader", cluster.shell_image, read, cluster.workers[1], "shared"),
    )
    assert ended(namespace, "reader") == 0
    assert namespace.logs("reader") == "from the first\n"
    assert (folder / "answer").read_text() == "seen\n"
    assert (folder / "answer").stat().st_uid == storage.OWNER


def test_the_shared_disk_can_be_full(cluster: Cluster, namespace: Namespace) -> None:
    folder = namespace.volume("shared")
    write = "dd if=/dev/zero of=/data/big bs=1M count=4"
    with storage.full(leave=1 << 20):
        namespace.apply(claim("shared"), pod("full", cluster.shell_image, write, claim="shared"))
        assert ended(namespace, "full") != 0
    assert "No space left on device" in namespace.logs("full")
    namespace.apply(pod("free", cluster.shell_image, write, claim="shared"))
    assert ended(namespace, "free") == 0
    assert (folder / "big").stat().st_size == 4 << 20


def test_a_changed_image_reaches_a_node(cluster: Cluster, namespace: Namespace) -> None:
    for change in ("first", "second"):
        image = f"localhost/{namespace.name}:{change}"
        engine.build(image, f"FROM {cluster.shell_image}\nENV CHANGE={change}\n", [])
        name = registry.push(image)
        engine.call("rmi", image, name)
        namespace.apply(pod(change, name, "echo $CHANGE", cluster.workers[1]))
        assert ended(namespace, change) == 0
        assert namespace.logs(change) == f"{change}\n"


def test_the_operators_webhook_refuses_what_is_no_job(cluster: Cluster, namespace: Namespace) -> None:
    with pytest.raises(Failure, match="pytorch"):
        namespace.apply(job("wrong", cluster.shell_image, "true", workers=1, container="trainer"))


def test_the_operator_runs_a_job_on_two_nodes(cluster: Cluster, namespace: Namespace) -> None:
    namespace.apply(job("two", cluster.shell_image, MEET, workers=1))
    assert namespace.finished("pytorchjob", "two") == "Succeeded"
    assert "rank 0 of 2" in namespace.logs("two-master-0")
    assert ended(namespace, "two-worker-0") == 0
    assert namespace.logs("two-worker-0") == "rank 1 of 2\nfrom the master\n"
    assert {item["spec"]["nodeName"] for item in namespace.pods()} == set(cluster.workers)


def test_restricted_pod_security_refuses_the_operators_own_init_container(
    cluster: Cluster, namespace: Namespace
) -> None:
    namespace.enforce("restricted")
    namespace.apply(job("refused", cluster.shell_image, "sleep 300", workers=1))

    def look() -> str | None:
        messages = [event.get("message", "") for event in namespace.get("events").get("items", [])]
        return next((text for text in messages if "violates PodSecurity" in text), None)

    message = namespace.wait("the worker is refused", look, deadline=60)
    assert "init-pytorch" in message
    assert '"pytorch"' not in message
    assert [item["metadata"]["name"] for item in namespace.pods()] == ["refused-master-0"]


def test_with_our_template_restricted_pod_security_admits_workers(cluster: Cluster, namespace: Namespace) -> None:
    namespace.enforce("restricted")
    with operator.init_container_template():
        namespace.apply(job("admitted", cluster.shell_image, MEET, workers=1))
        assert namespace.finished("pytorchjob", "admitted") == "Succeeded"
        assert ended(namespace, "admitted-worker-0") == 0
    assert json.loads(namespace.kubectl("get", "pod", "admitted-worker-0", "-o", "json"))["spec"]["initContainers"]
