"""What will be submitted, before it is: nodes, image, memory, disk, queue, and what stays when the run is deleted."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from distrain_k8s.helm import Helm
from distrain_k8s.kube.client import Api
from distrain_k8s.render import Document, Values, render
from distrain_k8s.runs.checks import Checked, check
from distrain_k8s.runs.estimate import Estimate, disk_line, disk_problem, estimate, memory_line, memory_problem
from distrain_k8s.runs.request import Request, read_request
from distrain_trainer.errors import SettingsError


@dataclass(frozen=True)
class Plan:
    """A run that could be submitted. point: its values in a sweep, for people. checked: None until a cluster was asked.
    refused, warnings, unchecked: sentences of all checks, here and there."""

    request: Request
    documents: list[Document]
    values: Values
    estimate: Estimate
    point: str = ""
    checked: Checked | None = None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.request.name

    @property
    def gpu_memory(self) -> int | None:
        """Bytes of the GPUs that the run would get, where the nodes say it."""
        return self.checked.capacity.gpu_memory if self.checked and self.checked.capacity else None

    @property
    def refused(self) -> list[str]:
        """Why nothing may be made."""
        found = self.checked.of("refused") if self.checked else []
        too_small = None if self.checked and self.checked.claim_exists else disk_problem(self.estimate, self.request)
        return [*found, *filter(None, (too_small, self.estimate.fewer))]

    @property
    def warnings(self) -> list[str]:
        """What will keep it waiting or end it."""
        found = self.checked.of("warning") if self.checked else []
        memory = memory_problem(self.estimate, self.request, self.gpu_memory)
        return [*found, *([memory] if memory else []), *unmounted(self.request)]

    @property
    def unchecked(self) -> list[str]:
        """What could not be asked."""
        return self.checked.of("unchecked") if self.checked else []

    def rows(self) -> Iterator[tuple[str, str]]:
        """What a person is shown: a word and what stands behind it."""
        request, settings = self.request, self.request.settings
        yield "nodes", nodes_line(request, self.checked)
        yield "image", request.image
        if settings.model.name:
            yield "model", settings.model.name
        data = settings.data
        yield "data", data.name or ", ".join(data.files or data.mix or ()) or "none"
        yield "memory", memory_line(self.estimate, request, self.gpu_memory)
        if disk := disk_line(self.estimate, request):
            yield "disk", disk
        if request.queue:
            yield "queue", f"{request.queue} (Kueue)"
        if request.group:
            yield "group", request.group
        yield "kept", kept_line(self)

    def document(self) -> dict[str, Any]:
        """The same, for programs."""
        request = self.request
        return {
            "name": request.name,
            "namespace": request.namespace,
            "kind": request.kind,
            "nodes": request.nodes,
            "processes_per_node": request.processes,
            "gpus_per_node": request.gpus,
            "gpu_resource": request.gpu_resource,
            "image": request.image,
            "queue": request.queue,
            "group": request.group,
            "strategy": self.estimate.strategy,
            "memory_bytes": self.estimate.bytes.total if self.estimate.bytes else None,
            "disk_bytes": self.estimate.disk.total if self.estimate.disk else None,
            "claim": request.claim.name if request.claim else None,
            "refused": self.refused,
            "warnings": self.warnings,
            "unchecked": self.unchecked,
        }


def plan_run(helm: Helm, name: str, values: Values, point: str = "") -> Plan:
    """Renders and checks a run on this machine. Raises SettingsError."""
    documents = render(helm, name, values)
    request = read_request(documents)
    refuse_paths_of_this_machine(request)
    return Plan(request, documents, values, estimate(request, None), point)


def ask_cluster(api: Api, helm: Helm, plan: Plan) -> Plan:
    """The plan with what the cluster says of it. Raises Conflict where there is such a run already."""
    checked = check(api, plan.request, plan.documents)
    gpu_memory = checked.capacity.gpu_memory if checked.capacity else None
    if not any(sentence.startswith("there is no claim") for sentence in checked.of("refused")):
        render(helm, plan.name, plan.values, look=True)  # the chart compares claims that exist with what the run needs
    return replace(plan, checked=checked, estimate=estimate(plan.request, gpu_memory))


def nodes_line(request: Request, checked: Checked | None) -> str:
    """`2 with 8 nvidia.com/gpu each (NVIDIA-H100-80GB-HBM3), 16 processes`."""
    product = checked.capacity.gpu_product if checked and checked.capacity else None
    each = f"{request.gpus} {request.gpu_resource}" if request.gpus else "no GPU"
    kind = f" ({product})" if product and request.gpus else ""
    world = f"{request.world} process{'es' if request.world > 1 else ''}"
    return f"{request.nodes} with {each}{' each' if request.nodes > 1 else ''}{kind}, {world}"


def kept_line(plan: Plan) -> str:
    """What outlives `distrain delete`."""
    claim = plan.request.claim
    if claim is None:
        return "nothing: set persistence.enabled to keep results"
    folder = f"the folder {plan.name} on the claim {claim.name}"
    if plan.checked and plan.checked.claim_exists:
        return f"{folder}, from an earlier run of this name: its newest checkpoint is resumed"
    return folder if claim.stays else "nothing: persistence.keepClaim is false, so the claim goes with the run"


def refuse_paths_of_this_machine(request: Request) -> None:
    """Raises SettingsError where the trainer is to read a path that means this machine's working folder."""
    settings = request.settings
    for name in ("files", "evaluation_files"):
        for path in getattr(settings.data, name) or ():
            if "://" not in path and not PurePosixPath(path).is_absolute():
                raise SettingsError(
                    f"trainer.data.{name} has {path}, a path of this machine; put the data on a claim, name it "
                    f"in dataClaims, and set trainer.data.{name} to the path there: /data/{PurePosixPath(path).name}"
                )
    if settings.model.name.startswith((".", "~")):
        raise SettingsError(
            f"trainer.model.name is {settings.model.name}, a path of this machine; name a model on the Hub, or "
            "a folder on a claim of dataClaims"
        )


def unmounted(request: Request) -> Iterator[str]:
    """Absolute paths of data and model that lie on no volume of the pod, nor, so far as is known, in the image."""
    mounts = [mount["mountPath"] for mount in request.pod["spec"]["containers"][0]["volumeMounts"]]
    paths = [*(request.settings.data.files or ()), *(request.settings.data.evaluation_files or ())]
    for path in (*paths, request.settings.model.name):
        if path.startswith("/") and not any(PurePosixPath(path).is_relative_to(mount) for mount in mounts):
            where = ", ".join(mounts)
            yield f"{path} lies on no volume of the pods ({where}); set dataClaims, unless the image holds it"


def show(plans: list[Plan], where: str) -> None:
    """Shows what will be submitted, on stderr: one run, or a sweep as its points. where: namespace and cluster."""
    first = plans[0]
    title = first.name if len(plans) == 1 else f"{len(plans)} runs of the group {first.request.group}"
    lines = [f"{title} in {where}"]
    lines += [f"  {word:<8} {text}" for word, text in first.rows()]
    if len(plans) > 1:
        width = max(len(plan.name) for plan in plans)
        lines += ["  runs"] + [f"    {plan.name:<{width}}  {plan.point}" for plan in plans]
    lines += [f"  warning: {sentence}" for sentence in first.warnings]
    lines += [f"  not checked: {sentence}" for sentence in first.unchecked]
    print("\n".join(lines), file=sys.stderr, flush=True)
