"""What only some tests need beside the operator: JobSet and Kubeflow Trainer v2, Kueue."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cluster import images, kubectl, manifests, published, tools
from cluster.shell import step


class Controller(NamedTuple):
    program: str
    part: str  # the folder of its module that holds the manifests
    resource: str
    namespace: str
    deployment: str
    image: str  # what the manifests name
    published: str  # what its makers released


JOBSET = Controller(
    "jobset",
    "config",
    "config/default",
    "jobset-system",
    "jobset-controller-manager",
    "us-central1-docker.pkg.dev/k8s-staging-images/jobset/jobset",
    "registry.k8s.io/jobset/jobset",
)
TRAINER = Controller(
    "trainer-controller-manager",
    "manifests",
    "manifests/overlays/manager",
    "kubeflow-system",
    "kubeflow-trainer-controller-manager",
    "ghcr.io/kubeflow/trainer/trainer-controller-manager",
    "ghcr.io/kubeflow/trainer/trainer-controller-manager",
)
KUEUE = Controller(
    "kueue",
    "config",
    "config/default",
    "kueue-system",
    "kueue-controller-manager",
    "us-central1-docker.pkg.dev/k8s-staging-images/kueue/kueue",
    "registry.k8s.io/kueue/kueue",
)


def jobset() -> None:
    install(JOBSET)


def trainer() -> None:
    """Kubeflow Trainer v2 with the JobSet that it is built on."""
    install(JOBSET)

    def without_its_own_jobset(root: Path) -> None:
        file = root / TRAINER.resource / "kustomization.yaml"
        file.write_text("".join(line for line in file.open() if "third-party/jobset" not in line))

    if install(TRAINER, without_its_own_jobset) and kubectl.is_available(KUEUE.namespace, KUEUE.deployment):
        # Kueue refuses the jobs of runtimes that were not there when it started.
        kubectl.run("-n", KUEUE.namespace, "rollout", "restart", f"deployment/{KUEUE.deployment}")
        kubectl.rolled_out(KUEUE.namespace, KUEUE.deployment)


def kueue() -> None:
    """Kueue with its integration of PyTorchJobs."""

    def with_pytorchjobs(root: Path) -> None:
        file = root / "config/components/manager/controller_manager_config.yaml"
        file.write_text(file.read_text().replace('# - "kubeflow.org/pytorchjob"', '- "kubeflow.org/pytorchjob"'))

    install(KUEUE, with_pytorchjobs)


def install(controller: Controller, change: Callable[[Path], None] = lambda root: None) -> bool:
    """Installs a controller; whether it was not there before."""
    if kubectl.is_available(controller.namespace, controller.deployment):
        return False
    program = tools.PROGRAMS[controller.program]
    root = manifests.folder(controller.program, program, controller.part)
    change(root)
    image = f"{controller.published}:{program.version}"
    if not published.reachable():
        image = images.program(controller.program, program.version, tools.build(controller.program))
    with step(f"installing {controller.program} {program.version}"):
        manifests.apply(root, controller.resource, {controller.image: image}, {})
        kubectl.rolled_out(controller.namespace, controller.deployment)
    return True


ALL = {"jobset": jobset, "trainer": trainer, "kueue": kueue}
