"""The Kubeflow training operator, and the container that it puts before every worker."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cluster import images, kubectl, manifests, published, tools
from cluster.shell import Failure, step

NAMESPACE = "kubeflow"
NAME = "training-operator"
OPERATOR = tools.PROGRAMS["training-operator.v1"]
PUBLISHED_IMAGE = "ghcr.io/kubeflow/training-v1/training-operator:v1-93c5489"
TEMPLATE_MAP = "training-operator-init-container"
TEMPLATE_VOLUME = "init-container"
TEMPLATE_FILE = "initContainer.yaml"  # in /etc/config, where the operator looks by default
RESTRICTED_TEMPLATE = Path(__file__).resolve().parents[3] / "docs" / "operator-init-container.yaml"


def install() -> None:
    image = PUBLISHED_IMAGE
    if not published.reachable():
        image = images.program(NAME, OPERATOR.version, tools.build("training-operator.v1"))
    spec = kubectl.get("deployment", NAME, "-n", NAMESPACE).get("spec", {}).get("template", {}).get("spec", {})
    if any(volume["name"] == TEMPLATE_VOLUME for volume in spec.get("volumes", [])):  # a test was killed
        use_template(False)
    found = [(container["image"], container.get("args", [])) for container in spec.get("containers", [])]
    if found != [(image, arguments())]:
        with step(f"installing the training operator {OPERATOR.version}"):
            root = manifests.folder(NAME, OPERATOR, "manifests")
            patch = [{"op": "add", "path": "/spec/template/spec/containers/0/args", "value": arguments()}]
            name = PUBLISHED_IMAGE.split(":")[0]
            manifests.apply(root, "manifests/overlays/standalone", {name: image}, {NAME: patch})
    with step("waiting for the operator and its webhook"):
        kubectl.rolled_out(NAMESPACE, NAME)
        wait_for_webhook()


def arguments() -> list[str]:
    """Of the operator: its init container's image is replaced where that cannot be pulled."""
    return [] if published.reachable() else [f"--pytorch-init-container-image={images.shell()}"]


def wait_for_webhook() -> None:
    """Available comes before the webhook answers."""
    template = {"spec": {"containers": [{"name": "pytorch", "image": "none"}]}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": template}}},
    }

    def look() -> tuple[bool | None, object]:
        try:
            kubectl.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(job), timeout=20)
        except Failure as failure:
            return None, str(failure)
        return True, None

    kubectl.wait("the operator's webhook admits a job", look, deadline=180, stall=180)


@contextlib.contextmanager
def more_calls(per_second: int) -> Iterator[None]:
    """The operator with more calls to the API server than its 20 a second."""
    usual = arguments()
    set_arguments([*usual, f"--kube-api-qps={per_second}", f"--kube-api-burst={per_second}"])
    try:
        yield
    finally:
        set_arguments(usual)


def set_arguments(wanted: list[str]) -> None:
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": wanted}]
    kubectl.run("patch", "deployment", NAME, "-n", NAMESPACE, "--type=json", "-p", json.dumps(patch))
    kubectl.rolled_out(NAMESPACE, NAME)
    wait_for_webhook()


@contextlib.contextmanager
def init_container_template(file: Path = RESTRICTED_TEMPLATE) -> Iterator[None]:
    """The operator with another init container for workers; it reads the template once, so it is started anew."""
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TEMPLATE_MAP},
            "data": {TEMPLATE_FILE: file.read_text()},
        },
        namespace=NAMESPACE,
    )
    use_template(True)
    try:
        yield
    finally:
        use_template(False)


def use_template(wanted: bool) -> None:
    name = TEMPLATE_VOLUME
    mount = {"name": name, "mountPath": "/etc/config"}
    volume = {"name": name, "configMap": {"name": TEMPLATE_MAP}}
    if not wanted:
        mount = {"mountPath": mount["mountPath"], "$patch": "delete"}
        volume = {"name": name, "$patch": "delete"}
    spec = {"containers": [{"name": NAME, "volumeMounts": [mount]}], "volumes": [volume]}
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    kubectl.run("patch", "deployment", NAME, "-n", NAMESPACE, "--type=strategic", "-p", patch)
    kubectl.rolled_out(NAMESPACE, NAME)
    wait_for_webhook()
