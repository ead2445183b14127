"""`distrain doctor`: whether runs can be submitted from here and train there; each line ok, warn or fail."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from distrain_k8s.errors import ClientError, Forbidden, HelmMissing, NotFound, NotServed
from distrain_k8s.helm import find_helm
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import GPU_PRODUCT
from distrain_k8s.kube.quantities import quantity
from distrain_k8s.kube.resources import (
    ACCESS_REVIEWS,
    CRDS,
    LOCAL_QUEUES,
    NODES,
    PYTORCHJOBS,
    STORAGE_CLASSES,
    TRAINJOBS,
    Resource,
)

DEPLOYMENTS = Resource("Deployment", "deployments", "apps")
CONFIGS = Resource("ConfigMap", "configmaps")
OLDEST_KUBERNETES = (1, 27)
OPERATOR = "training-operator"
MANIFESTS = "github.com/kubeflow/training-operator.git/manifests/overlays/standalone?ref=v1.9.4"
INSTALL_OPERATOR = f'kubectl apply --server-side -k "{MANIFESTS}"'
GPU = re.compile(r"^(nvidia\.com/(gpu|mig-.+)|amd\.com/gpu)$")
GPU_PRESENT = (
    "nvidia.com/gpu.present",
    "feature.node.kubernetes.io/pci-10de.present",
    "cloud.google.com/gke-accelerator",
)
"""Labels of nodes that have a GPU, whether a device plugin offers it or not."""
SHARED = (
    "nfs",
    "cephfs",
    "filestore",
    "efs",
    "azurefile",
    "file.csi",
    "lustre",
    "fsx",
    "beegfs",
    "gpfs",
    "juicefs",
    "weka",
    "vast",
)
"""Words in the provisioner of a storage class that offers ReadWriteMany."""
BY_HAND = "kubernetes.io/no-provisioner"
"""The provisioner of a storage class whose volumes somebody makes."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
VIEWER = (
    ("list", "kubeflow.org", "pytorchjobs"),
    ("list", "", "pods"),
    ("get", "", "pods/log"),
    ("list", "", "events"),
)
SUBMITTER = (
    ("create", "kubeflow.org", "pytorchjobs"),
    ("patch", "kubeflow.org", "pytorchjobs"),
    ("delete", "kubeflow.org", "pytorchjobs"),
    ("create", "", "configmaps"),
    ("create", "", "persistentvolumeclaims"),
    ("create", "networking.k8s.io", "networkpolicies"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
)


@dataclass(frozen=True)
class Line:
    """One line of the answer. about: what was looked at. mend: what to do, empty where all is well."""

    state: Literal["ok", "warn", "fail"]
    about: str
    sentence: str
    mend: str = ""


def examine(connect: Callable[[], Api], context: str | None = None, kubeconfig: str | None = None) -> Iterator[Line]:
    """Looks at everything, and goes on where one look is not permitted. Stops where the cluster does not answer."""
    yield helm_line(context, kubeconfig)
    try:
        api = connect()
        version = api.version()
    except ClientError as error:
        yield Line("fail", "cluster", str(error), "kubectl cluster-info")
        return
    yield cluster_line(api, version)
    for look in (operators, kueue, gpus, storage, permissions):
        try:
            yield from look(api)
        except Forbidden as error:
            yield Line("warn", look.__name__, f"not looked at: {error}")
        except ClientError as error:
            yield Line("warn", look.__name__, f"not looked at: {error}")


def helm_line(context: str | None, kubeconfig: str | None) -> Line:
    """Whether Helm is here."""
    try:
        helm = find_helm(None, context, kubeconfig)
    except HelmMissing as error:
        sentence, _, mend = str(error).partition("; ")
        return Line("fail", "helm", sentence, mend)
    return Line("ok", "helm", f"Helm {helm.version[0]}.{helm.version[1]} at {helm.program}")


def cluster_line(api: Api, version: dict[str, Any]) -> Line:
    """Its version."""
    number = str(version.get("gitVersion", "?"))
    where = f"Kubernetes {number} at {api.server}, namespace {api.namespace}"
    found = re.match(r"v(\d+)\.(\d+)", number)
    if found and (int(found[1]), int(found[2])) < OLDEST_KUBERNETES:
        return Line("warn", "cluster", where, "distrain is tested with 1.27 and later; upgrade the cluster")
    return Line("ok", "cluster", where)


def operators(api: Api) -> Iterator[Line]:
    """The training operator, and Kubeflow Trainer v2: one of them must be there."""
    v1, v2 = is_served(api, PYTORCHJOBS), is_served(api, TRAINJOBS)
    if v1:
        yield operator_line(api)
    elif v2:
        yield Line("warn", "operator", "no training operator v1; runs need backend=trainjob", "--set backend=trainjob")
    else:
        yield Line(
            "fail",
            "operator",
            "neither the training operator v1 nor Kubeflow Trainer v2 is installed",
            INSTALL_OPERATOR,
        )
    if v2:
        yield Line("ok", "trainer v2", "TrainJobs are served, so backend=trainjob works")
    else:
        yield Line("ok", "trainer v2", "not installed; only backend=trainjob needs it")


def operator_line(api: Api) -> Line:
    """Whether the operator runs, and what its version lacks."""
    try:
        found = [d for d in api.list(DEPLOYMENTS, everywhere=True) if d["metadata"]["name"].endswith(OPERATOR)]
    except Forbidden:
        return Line("ok", "operator", "PyTorchJobs are served; whether the operator runs is not ours to see")
    if not found:
        return Line(
            "warn", "operator", f"PyTorchJobs are served, but no Deployment is called {OPERATOR}", INSTALL_OPERATOR
        )
    deployment = found[0]
    namespace = deployment["metadata"]["namespace"]
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    if not (deployment.get("status") or {}).get("availableReplicas"):
        return Line("fail", "operator", f"{image} is installed and not running", f"kubectl -n {namespace} get pods")
    if lacks := what_it_lacks(api):
        return Line(
            "fail", "operator", f"{image} is too old: it lacks {lacks}", f"upgrade it to 1.9: {INSTALL_OPERATOR}"
        )
    if tag := re.search(r":v?(\d+)\.(\d+)", image):
        version = int(tag[1]), int(tag[2])
        if version < (1, 9):
            return Line(
                "warn",
                "operator",
                f"training operator {version[0]}.{version[1]} runs; Kueue's MultiKueue needs managedBy of 1.9",
                f"upgrade it where that is wanted: {INSTALL_OPERATOR}",
            )
    return Line("ok", "operator", f"{image} runs in {namespace}")


def what_it_lacks(api: Api) -> str | None:
    """What distrain needs and the schema of PyTorchJobs does not have; None also where it may not be read."""
    try:
        crd = api.get(CRDS, PYTORCHJOBS.full_name)
    except (Forbidden, NotFound):
        return None
    schema: dict[str, Any] = next(
        (v.get("schema", {}).get("openAPIV3Schema", {}) for v in crd["spec"]["versions"] if v["name"] == "v1"), {}
    )
    spec = schema.get("properties", {}).get("spec", {}).get("properties", {})
    if not spec:
        return None
    if "suspend" not in spec.get("runPolicy", {}).get("properties", {}):
        return "runPolicy.suspend, without which runs cannot be stopped (since 1.7)"
    if spec.get("nprocPerNode", {}).get("type") != "string":
        return "nprocPerNode as text, without which processes cannot be counted (since 1.7)"
    return None


def kueue(api: Api) -> Iterator[Line]:
    """Queues, and whether Kueue manages our kinds of job."""
    try:
        queues = [queue["metadata"]["name"] for queue in api.list(LOCAL_QUEUES)]
    except NotServed:
        yield Line("ok", "kueue", "not installed; only kueue.queue needs it")
        return
    names = ", ".join(queues) or "none"
    try:
        config = api.get(CONFIGS, "kueue-manager-config", "kueue-system").get("data") or {}
    except (Forbidden, NotFound):
        yield Line("ok", "kueue", f"queues of {api.namespace}: {names}; its configuration is not ours to see")
        return
    text = "\n".join(config.values())
    off = [name for name in ("kubeflow.org/pytorchjob", "trainer.kubeflow.org/trainjob") if not enabled(text, name)]
    if "kubeflow.org/pytorchjob" in off:
        mend = "add kubeflow.org/pytorchjob to integrations.frameworks in kueue-system/kueue-manager-config"
        yield Line("warn", "kueue", f"queues of {api.namespace}: {names}; Kueue does not manage PyTorchJobs", mend)
    else:
        yield Line("ok", "kueue", f"queues of {api.namespace}: {names}; PyTorchJobs are managed")


def enabled(configuration: str, framework: str) -> bool:
    """Whether a line of Kueue's configuration names the framework and is not commented out."""
    return bool(re.search(rf'^\s*-\s*"?{re.escape(framework)}"?\s*$', configuration, re.MULTILINE))


def gpus(api: Api) -> Iterator[Line]:
    """GPUs that nodes offer, and nodes whose device plugin is missing."""
    offered: Counter[str] = Counter()
    products: dict[str, set[str]] = {}
    missing = []
    nodes = api.list(NODES)
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        found = {
            n: c for n, c in (node.get("status", {}).get("allocatable") or {}).items() if GPU.match(n) and quantity(c)
        }
        for name, count in found.items():
            offered[name] += int(quantity(count))
            products.setdefault(name, set()).update(filter(None, [labels.get(GPU_PRODUCT)]))
        if not found and any(label in labels for label in GPU_PRESENT):
            missing.append(node["metadata"]["name"])
    if missing:
        sentence = (
            f"{', '.join(missing[:3])} {'have' if len(missing) > 1 else 'has'} a GPU that no device plugin offers"
        )
        yield Line(
            "warn", "gpus", sentence, "install NVIDIA's device plugin or GPU operator, and see its pods on that node"
        )
    if offered:
        kinds = [
            f"{count} {name}" + (f" ({', '.join(sorted(products[name]))})" if products[name] else "")
            for name, count in offered.items()
        ]
        yield Line("ok", "gpus", f"{len(nodes)} nodes offer {', '.join(kinds)}")
    elif not missing:
        yield Line(
            "warn", "gpus", f"{len(nodes)} nodes and no GPU: runs train on the CPU (gpus=0), or wait for an autoscaler"
        )


def storage(api: Api) -> Iterator[Line]:
    """The default storage class, and one that several nodes can write to."""
    classes = api.list(STORAGE_CLASSES)
    defaults = {
        c["metadata"]["name"]: c.get("provisioner")
        for c in classes
        if (c["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    }
    shared = [
        c["metadata"]["name"] for c in classes if any(word in c.get("provisioner", "").lower() for word in SHARED)
    ]
    if BY_HAND in defaults.values():
        yield Line(
            "warn",
            "storage",
            f"the default storage class {', '.join(defaults)} makes no volumes: claims wait for one made by hand",
            "make a PersistentVolume for each run, or set persistence.storageClass or persistence.existingClaim",
        )
    elif defaults:
        yield Line("ok", "storage", f"the default storage class is {', '.join(defaults)}")
    else:
        yield Line(
            "warn",
            "storage",
            "there is no default storage class",
            "set persistence.storageClass, or persistence.existingClaim",
        )
    if shared:
        yield Line(
            "ok",
            "shared storage",
            f"{', '.join(shared)} should offer ReadWriteMany, by the names of their provisioners",
        )
    else:
        mend = (
            "runs on several nodes need a claim with ReadWriteMany: NFS, CephFS, Filestore, EFS; name it in persistence"
        )
        yield Line("warn", "shared storage", "no storage class is known to offer ReadWriteMany", mend)


def permissions(api: Api) -> Iterator[Line]:
    """What we may do in the namespace."""
    for role, wanted in (("view", VIEWER), ("submit", SUBMITTER)):
        lacking = [f"{verb} {resource}" for verb, group, resource in wanted if not allowed(api, verb, group, resource)]
        if lacking:
            mend = f"ask for the Role of docs/client.md in {api.namespace}"
            yield Line(
                "fail" if role == "view" else "warn", f"may {role}", f"not permitted: {', '.join(lacking)}", mend
            )
        else:
            yield Line("ok", f"may {role}", f"runs of the namespace {api.namespace}")
    driver = os.environ.get("HELM_DRIVER") or "secret"
    kind = {"configmap": "configmaps", "configmaps": "configmaps"}.get(driver, "secrets")
    if driver not in ("sql", "memory") and not allowed(api, "create", "", kind):
        mend = (
            "export HELM_DRIVER=configmap, which needs no Secrets"
            if kind == "secrets"
            else "ask for the Role of docs/client.md"
        )
        yield Line(
            "warn", "helm's records", f"Helm keeps them in {kind}, which may not be made in {api.namespace}", mend
        )


def allowed(api: Api, verb: str, group: str, resource: str) -> bool:
    """Whether we may do this in the namespace, as the API server itself sees it."""
    name, _, part = resource.partition("/")
    attributes = {"namespace": api.namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": attributes},
    }
    return bool((api.create(ACCESS_REVIEWS, body).get("status") or {}).get("allowed"))


def is_served(api: Api, resource: Resource) -> bool:
    """Whether the cluster knows a kind of object, also where we may not list it."""
    try:
        api.list(resource, chunk=1)
    except NotServed:
        return False
    except Forbidden:
        return True
    return True
