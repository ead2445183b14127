"""How much memory and disk a run takes, beside what the cluster has: the figures of `distrain plan`."""

from dataclasses import dataclass

from distrain_k8s.runs.request import Request
from distrain_trainer.errors import DistrainError
from distrain_trainer.memory.advice import disk_sentence, fewer_nodes_problem, read_model, size
from distrain_trainer.memory.disk import DiskNeed, disk_need
from distrain_trainer.memory.estimate import USED, Bytes, auto_tokens, fewest_processes, held, kind_of, plan


@dataclass(frozen=True)
class Estimate:
    """bytes: of a process. tokens: padded tokens of a micro-batch. disk: what the run's folder holds at its fullest.
    fewer: why it would not fit `elastic.min_nodes`. unknown: why nothing could be estimated."""

    strategy: str
    bytes: Bytes | None = None
    tokens: int | None = None
    disk: DiskNeed | None = None
    fewer: str | None = None
    unknown: str | None = None


def estimate(request: Request, gpu_memory: int | None) -> Estimate:
    """gpu_memory: bytes of a GPU, where that is known; `batch.tokens: auto` depends on it."""
    settings, world = request.settings, request.world
    strategy = kind_of(settings, world)
    device = "cuda" if request.gpus else "cpu"
    try:
        weights = read_model(settings)
        tokens = settings.batch.tokens
        if tokens == "auto":
            if gpu_memory is None:
                return Estimate(strategy, unknown="batch.tokens is auto, which is decided on the GPU")
            fewest = fewest_processes(settings, request.nodes, request.processes)
            tokens = auto_tokens(weights, settings, strategy, fewest, gpu_memory, device)
        sizes = held(weights, settings)
        planned = plan(weights, settings, strategy, world, tokens, device)
        fewer = None
        if request.gpus and gpu_memory:
            shape = tokens, request.nodes, request.processes
            fewer = fewer_nodes_problem(weights, settings, *shape, gpu_memory, device)
    except DistrainError as error:
        return Estimate(strategy, unknown=str(error))
    # Whether the claim's volume has hard links is not known here.
    return Estimate(strategy, planned, tokens, disk_need(sizes, settings), fewer)


def memory_line(found: Estimate, request: Request, gpu_memory: int | None) -> str:
    """What a process takes, beside what it has."""
    if found.bytes is None:
        return f"not estimated: {found.unknown}"
    each = "GPU" if request.gpus else "process"
    need = f"{size(found.bytes.total)} per {each} under {found.strategy}"
    return f"{need}, of {size(gpu_memory)}" if gpu_memory and request.gpus else need


def memory_problem(found: Estimate, request: Request, gpu_memory: int | None) -> str | None:
    """Why it will run out of memory."""
    if found.bytes is None:
        return None
    if request.gpus and gpu_memory and found.bytes.total > USED * gpu_memory:
        return (
            f"a GPU has {size(gpu_memory)}, of which {size(int(USED * gpu_memory))} may be filled; "
            "`distrain plan` says what to change"
        )
    pod = request.requests.get("memory")
    limit = request.pod["spec"]["containers"][0]["resources"].get("limits", {}).get("memory")
    if not request.gpus and limit and pod and found.bytes.total * request.processes > pod:
        return f"a pod is limited to {limit}; raise resources.limits.memory, or lower batch.tokens"
    return None


def disk_line(found: Estimate, request: Request) -> str | None:
    """What the run's folder takes, beside the size of the claim."""
    if request.claim is None:
        return "none: results are lost with the pod"
    need = f"up to {size(found.disk.total)}" if found.disk else "not estimated"
    if request.claim.size is None:
        return f"{need} on claim {request.claim.name}, which exists"
    return f"{need} on claim {request.claim.name} of {size(request.claim.size)}"


def disk_problem(found: Estimate, request: Request) -> str | None:
    """Why the claim that the run would make is too small."""
    claim, need = request.claim, found.disk
    if claim is None or claim.size is None or need is None or need.total <= claim.size:
        return None
    return (
        f"the run takes up to {disk_sentence(need)}, but the claim {claim.name} has {size(claim.size)}; "
        f"set persistence.size to at least {-(-need.total // 2**30)}Gi"
    )
