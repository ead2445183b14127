"""What a run asks of a cluster: read from its manifests, whatever values they were made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain_k8s.kube.objects import GROUP_LABEL, QUEUE_LABEL
from distrain_k8s.kube.quantities import quantity
from distrain_k8s.render import Document, settings_of
from distrain_trainer.settings.model import Settings


@dataclass(frozen=True)
class Claim:
    """The claim that a run writes to. size: bytes, None where it exists already. stays: whether it outlives the run."""

    name: str
    size: int | None
    made: bool
    stays: bool


@dataclass(frozen=True)
class Request:
    """nodes: pods. gpus, processes: of each. requests: of each pod, in base units. job: the manifest of the job. pod: a
    pod's template. claims: names of all claims that must exist. secrets: Secret names that the pods refer to."""

    name: str
    namespace: str
    kind: str
    nodes: int
    processes: int
    gpus: int
    gpu_resource: str | None
    image: str
    requests: Mapping[str, float]
    settings: Settings
    claim: Claim | None
    claims: tuple[str, ...]
    secrets: tuple[str, ...]
    queue: str | None
    group: str | None
    job: Document
    pod: Document

    @property
    def world(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.processes


def read_request(documents: list[Document]) -> Request:
    """Raises SettingsError where the trainer's settings contradict each other."""
    job = next(found for found in documents if found["kind"] in ("PyTorchJob", "TrainJob"))
    nodes, processes, pod = _shape(job, documents)
    container = pod["spec"]["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    gpus = int(variables.get("RUN_GPUS_PER_NODE") or 0)
    resources = container["resources"]
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    made = {found["metadata"]["name"]: found for found in documents if found["kind"] == "PersistentVolumeClaim"}
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    named = [v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v]
    labels = job["metadata"]["labels"]
    return Request(
        name=job["metadata"]["name"],
        namespace=job["metadata"]["namespace"],
        kind=job["kind"],
        nodes=nodes,
        processes=processes,
        gpus=gpus,
        gpu_resource=_gpu_resource(limits, gpus),
        image=container["image"],
        requests={name: quantity(text) for name, text in {**limits, **requests}.items()},
        settings=settings_of(documents),
        claim=_claim(volumes["out"], made),
        claims=tuple(name for name in named if name not in made),
        secrets=tuple(sorted(_secrets(pod["spec"], container))),
        queue=labels.get(QUEUE_LABEL),
        group=labels.get(GROUP_LABEL),
        job=job,
        pod=pod,
    )


def _shape(job: Document, documents: list[Document]) -> tuple[int, int, Document]:
    """Nodes, processes of each, and a pod's template."""
    if job["kind"] == "PyTorchJob":
        replicas = job["spec"]["pytorchReplicaSpecs"]
        nodes = sum(replica["replicas"] for replica in replicas.values())
        return nodes, int(job["spec"]["nprocPerNode"]), replicas["Master"]["template"]
    runtime = next(found for found in documents if found["kind"] == "TrainingRuntime")
    template = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    trainer = job["spec"]["trainer"]
    return trainer["numNodes"], int(trainer["numProcPerNode"]), template


def _gpu_resource(limits: Mapping[str, Any], gpus: int) -> str | None:
    """The device that a process has one of; that of RDMA stands beside it."""
    devices = [name for name, count in limits.items() if "/" in name and int(quantity(count)) == gpus]
    return min(devices, key=lambda name: name.startswith("rdma/"), default=None) if gpus else None


def _claim(volume: Document, made: Mapping[str, Document]) -> Claim | None:
    if "persistentVolumeClaim" not in volume:
        return None
    name = volume["persistentVolumeClaim"]["claimName"]
    if name not in made:
        return Claim(name, None, made=False, stays=True)
    metadata, spec = made[name]["metadata"], made[name]["spec"]
    stays = (metadata.get("annotations") or {}).get("helm.sh/resource-policy") == "keep"
    return Claim(name, int(quantity(spec["resources"]["requests"]["storage"])), made=True, stays=stays)


def _secrets(spec: Document, container: Document) -> set[str]:
    """Names of the Secrets without which a pod does not start."""
    found = {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in container["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    }
    found |= {entry["secretRef"]["name"] for entry in container.get("envFrom", []) if "secretRef" in entry}
    found |= {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    return found | {entry["name"] for entry in spec.get("imagePullSecrets", [])}
