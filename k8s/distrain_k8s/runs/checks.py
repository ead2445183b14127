"""What a cluster says of a run before anything is made: what it refuses, and what will keep the run waiting."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from distrain_k8s.errors import Conflict, Forbidden, NotFound, NotServed, Rejected
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.quantities import quantity
from distrain_k8s.kube.resources import (
    CLAIMS,
    CONFIG_MAPS,
    LOCAL_QUEUES,
    PODS,
    PYTORCHJOBS,
    QUOTAS,
    RUNTIMES,
    SECRETS,
    TRAINJOBS,
    Resource,
)
from distrain_k8s.render import Document
from distrain_k8s.runs.capacity import Capacity, read_capacity
from distrain_k8s.runs.request import Request

JOBS = {"PyTorchJob": PYTORCHJOBS, "TrainJob": TRAINJOBS}
POLICIES = Resource("NetworkPolicy", "networkpolicies", "networking.k8s.io")
BUDGETS = Resource("PodDisruptionBudget", "poddisruptionbudgets", "policy")
MADE = {found.kind: found for found in (PYTORCHJOBS, TRAINJOBS, RUNTIMES, CONFIG_MAPS, CLAIMS, POLICIES, BUDGETS)}
"""Every kind of object that the chart makes."""


@dataclass(frozen=True)
class Finding:
    """refused: nothing may be made. warning: it will not run, or not yet. unchecked: what could not be asked."""

    weight: Literal["refused", "warning", "unchecked"]
    sentence: str


@dataclass(frozen=True)
class Checked:
    """claim_exists: the claim that the chart would make was kept from an earlier run of this name."""

    findings: list[Finding] = field(default_factory=list)
    capacity: Capacity | None = None
    claim_exists: bool = False

    def of(self, weight: str) -> list[str]:
        """The sentences of one weight."""
        return [found.sentence for found in self.findings if found.weight == weight]


def check(api: Api, request: Request, documents: list[Document]) -> Checked:
    """Asks all that may be asked. Raises the errors of a cluster that does not answer."""
    refuse_existing(api, request)
    findings: list[Finding] = []
    exists = _exists(api, CLAIMS, request.claim.name) if request.claim and request.claim.made else False
    findings += _dry_run(api, documents, exists)
    for look in (_pod, _quotas, _claims, _secrets, _queue):
        findings += _allowed(look, api, request)
    capacity = None
    try:
        capacity = read_capacity(api, request)
    except Forbidden as error:
        findings.append(Finding("unchecked", f"the nodes: {error}"))
    if capacity and (problem := capacity.problem(request)):
        findings.append(Finding("warning", problem))
    return Checked(findings, capacity, exists)


def refuse_existing(api: Api, request: Request) -> None:
    """Raises Conflict where there is a run, or what is left of one, of that name."""
    name = request.name
    for resource in JOBS.values():
        try:
            found = api.get(resource, name)
        except NotServed:
            continue
        except NotFound:
            continue
        since = found["metadata"]["creationTimestamp"]
        raise Conflict(
            f"there is a run {name} in {api.namespace} since {since}; `distrain resume {name}` continues it, "
            f"`distrain delete {name}` removes it, and --name gives this one another name"
        )
    if _exists(api, CONFIG_MAPS, f"{name}-settings"):
        raise Conflict(
            f"the settings of a run {name} are in {api.namespace}, but its job is gone; `distrain resume {name}` makes "
            f"it again, and `distrain delete {name}` removes what is left"
        )


def _exists(api: Api, resource: Resource, name: str) -> bool:
    try:
        api.get(resource, name)
    except NotFound:
        return False
    return True


def _allowed(look: Callable[[Api, Request], Iterator[Finding]], api: Api, request: Request) -> Iterator[Finding]:
    """The findings of one look, or that the user may not look."""
    try:
        yield from list(look(api, request))
    except Forbidden as error:
        yield Finding("unchecked", f"{_about(look)}: {error}")


def _about(look: Callable[..., object]) -> str:
    return look.__name__.strip("_").replace("pod", "what policies say of its pods")


def _dry_run(api: Api, documents: list[Document], claim_exists: bool) -> Iterator[Finding]:
    """Asks the API server to take each object, without making it."""
    for document in documents:
        resource = MADE[document["kind"]]
        hook = (document["metadata"].get("annotations") or {}).get("helm.sh/hook")
        if hook == "post-delete" or (resource is CLAIMS and claim_exists):
            continue
        if resource is TRAINJOBS:  # its webhook wants the runtime, which is not there yet
            api.list(TRAINJOBS, chunk=1)
            continue
        try:
            api.create(resource, document, dry_run=True)
        except Conflict:
            name = document["metadata"]["name"]
            yield Finding(
                "refused",
                f"there is a {resource.kind} {name} that does not belong to a run of this name; choose another name "
                "with --name",
            )
        except (Rejected, Forbidden) as error:
            if isinstance(error, Forbidden) and error.verb:
                raise  # one sentence for all objects that we may not make
            yield Finding("refused", f"{resource.kind} {document['metadata']['name']}: {error}")


def _pod(api: Api, request: Request) -> Iterator[Finding]:
    """Asks for one pod of the run: what Pod Security, limits, quotas and policies of the namespace say."""
    metadata = {**request.pod.get("metadata", {}), "name": f"{request.name}-try-{secrets.token_hex(3)}"}
    spec = {**request.pod["spec"], "restartPolicy": "Never"}
    try:
        api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, dry_run=True)
    except Rejected as error:
        yield Finding("refused", f"the namespace {api.namespace} does not admit the run's pods: {error}")
    except Forbidden as error:
        if error.verb:  # our own permissions; a policy that refuses the pod names none
            raise
        yield Finding("refused", f"the namespace {api.namespace} does not admit the run's pods: {error}")


def _quotas(api: Api, request: Request) -> Iterator[Finding]:
    """What all pods request together, beside what is left of the namespace's quotas."""
    container = request.pod["spec"]["containers"][0]["resources"]
    wanted: dict[str, float] = {"pods": request.nodes, "count/pods": request.nodes}
    for name, amount in request.requests.items():
        wanted[f"requests.{name}"] = amount * request.nodes
        if "/" not in name:
            wanted[name] = amount * request.nodes
    for name, text in container.get("limits", {}).items():
        wanted[f"limits.{name}"] = quantity(text) * request.nodes
    for found in api.list(QUOTAS):
        if found.get("spec", {}).get("scopes") or found.get("spec", {}).get("scopeSelector"):
            continue
        status = found.get("status") or {}
        for name, hard in (status.get("hard") or {}).items():
            left = quantity(hard) - quantity((status.get("used") or {}).get(name, 0))
            if wanted.get(name, 0) > left:
                quota = found["metadata"]["name"]
                yield Finding(
                    "refused",
                    f"the quota {quota} of the namespace {api.namespace} has {amount_text(name, left)} of {name} left "
                    f"({hard} in all), and the run requests {amount_text(name, wanted[name])}; ask for less, or for a "
                    "larger quota",
                )


def amount_text(name: str, amount: float) -> str:
    """An amount of a resource, in Gi where it is memory or storage."""
    if "memory" in name or "storage" in name:
        return f"{max(amount, 0) / 2**30:.4g}Gi"
    return f"{max(amount, 0):.4g}"


def _claims(api: Api, request: Request) -> Iterator[Finding]:
    for name in request.claims:
        try:
            found = api.get(CLAIMS, name)
        except NotFound:
            yield Finding(
                "refused",
                f"there is no claim {name} in {api.namespace}; make it first, or name another (kubectl get pvc)",
            )
            continue
        phase = (found.get("status") or {}).get("phase")
        if phase == "Lost":
            yield Finding("refused", f"the claim {name} has lost its volume; name another claim")


def _secrets(api: Api, request: Request) -> Iterator[Finding]:
    """Whether Secrets and the keys that the run names are there. What they hold is not looked at."""
    keys = secret_keys(request)
    for name in request.secrets:
        try:
            there = set(api.get(SECRETS, name).get("data") or {})
        except NotFound:
            yield Finding(
                "refused",
                f"there is no Secret {name} in {api.namespace}; make it first: kubectl -n {api.namespace} create "
                f"secret generic {name} --from-literal={next(iter(keys.get(name, ())), 'key')}=...",
            )
            continue
        for key in sorted(keys.get(name, set()) - there):
            yield Finding("refused", f"the Secret {name} has no key {key}, but {', '.join(sorted(there)) or 'none'}")


def secret_keys(request: Request) -> dict[str, set[str]]:
    """Name of a Secret -> its keys that become variables."""
    found: dict[str, set[str]] = {}
    for entry in request.pod["spec"]["containers"][0]["env"]:
        if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
            found.setdefault(reference["name"], set()).add(reference["key"])
    return found


def _queue(api: Api, request: Request) -> Iterator[Finding]:
    if request.queue is None:
        return
    try:
        found = api.get(LOCAL_QUEUES, request.queue)
    except NotServed:
        yield Finding(
            "refused", f"kueue.queue is {request.queue}, but Kueue is not installed in this cluster; remove it"
        )
        return
    except NotFound:
        names = ", ".join(queue["metadata"]["name"] for queue in api.list(LOCAL_QUEUES)) or "none"
        yield Finding("refused", f"there is no LocalQueue {request.queue} in {api.namespace}, which has {names}")
        return
    active = next((c for c in (found.get("status") or {}).get("conditions", []) if c["type"] == "Active"), None)
    if active and active["status"] != "True":
        yield Finding(
            "warning", f"the queue {request.queue} is not active ({active.get('message')}), so the run will wait"
        )
