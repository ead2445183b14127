"""Causes that damage the cluster which all tests share (`make release-test`): last, one after the other, and mended."""

from collections.abc import Iterator
from contextlib import contextmanager

from causes import LONG, Install, client, explained, release
from cluster import engine, kubectl, operator
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from distrain_k8s import Client

__all__ = ["client", "release"]


@contextmanager
def no_operator() -> Iterator[None]:
    place = ("-n", operator.NAMESPACE, f"deployment/{operator.NAME}")
    kubectl.run("scale", *place, "--replicas=0")
    try:
        yield
    finally:
        kubectl.run("scale", *place, "--replicas=1")
        kubectl.rolled_out(operator.NAMESPACE, operator.NAME)
        operator.wait_for_webhook()


def test_operator_not_running(client: Client, release: Install, namespace: Namespace) -> None:
    """Its webhook is away too, so that only a job which is there already can be seen: it is made, then forgotten."""
    release()
    job = namespace.get("pytorchjob", "run1")
    with no_operator():
        namespace.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
        webhooks = "validatingwebhookconfigurations"
        kept = kubectl.get(webhooks, "validator.training-operator.kubeflow.org")
        kubectl.run("delete", webhooks, "validator.training-operator.kubeflow.org")
        try:
            namespace.kubectl("delete", "pytorchjob", "run1")
            fresh = {**job, "metadata": {k: job["metadata"][k] for k in ("name", "namespace", "labels", "annotations")}}
            fresh.pop("status", None)
            namespace.apply(fresh)
            run = explained(client, namespace, "operator not running")
            assert run.cause and "kubectl get deployment -n kubeflow training-operator" in run.cause.mend
        finally:
            kept["metadata"] = {k: v for k, v in kept["metadata"].items() if k in ("name", "labels")}
            kubectl.apply(kept)


def test_node_gone(client: Client, release: Install, namespace: Namespace, cluster: Cluster) -> None:
    lost = cluster.workers[1]
    run = release(trainer=LONG, nodeSelector={"kubernetes.io/hostname": lost})
    namespace.wait("it trains", lambda: (run.folder / "metrics.jsonl").exists() or None, deadline=240)
    engine.call("exec", lost, "systemctl", "stop", "kubelet")
    try:
        found = explained(client, namespace, "node gone", deadline=400)
        assert found.cause and lost in found.cause.sentence
        assert found.cause.mend == f"kubectl delete pod run1-master-0 -n {namespace.name} --force --grace-period=0"
        before = namespace.get("pod", "run1-master-0")["metadata"]["uid"]
        kubectl.run(*found.cause.mend.split()[1:])

        def replaced() -> bool | None:
            uid = namespace.get("pod", "run1-master-0").get("metadata", {}).get("uid")
            return uid not in (None, before) or None

        namespace.wait("the pod is made again", replaced)
    finally:
        engine.call("exec", lost, "systemctl", "start", "kubelet")

        def look() -> tuple[bool | None, object]:
            conditions = kubectl.get("node", lost)["status"]["conditions"]
            ready = next(c["status"] for c in conditions if c["type"] == "Ready")
            return ready == "True" or None, ready

        kubectl.wait(f"{lost} ready", look, deadline=180, stall=180)
