"""The one table of causes: what is seen of a run, as one sentence and the command that mends it.

A row is tried in the order of the table, and only where its stage fits: what holds a run up is not asked of one that
has failed. Rows without a sign are recognized from an answer of the API server, as errors of `errors.py`, which carry
their own sentence. `docs/client.md` shows the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from distrain_k8s.diagnose import endings, waits
from distrain_k8s.diagnose.evidence import Evidence
from distrain_k8s.diagnose.redact import redacted_text
from distrain_k8s.diagnose.words import Sign
from distrain_k8s.errors import ClientError


class Stage(StrEnum):
    """When a cause is looked for: in a run that has no place yet, is held up, starts again, or has failed."""

    QUEUED = "queued"
    HOLDING = "holding"
    RESTARTING = "restarting"
    FAILED = "failed"
    ASKING = "asking"
    """A command that cannot ask the cluster at all."""


@dataclass(frozen=True)
class Cause:
    """name: the row of the table. sentence: what is wrong, and where. mend: what to type or do; empty where time mends
    it."""

    name: str
    sentence: str
    mend: str = ""


@dataclass(frozen=True)
class Row:
    """sentence, mend: with the words of the sign, and these: run, ns (`-n NAMESPACE`), again (the command that
    replaces the run by one with other values, where it is one of the chart)."""

    name: str
    stages: tuple[Stage, ...]
    sign: Sign | None
    sentence: str
    mend: str = ""


QUEUED, HOLDING, RESTARTING, FAILED, ASKING = Stage
STUCK = (HOLDING, RESTARTING)

CAUSES = (
    # What the trainer has said itself
    Row(
        "settings refused",
        (FAILED,),
        endings.ended_with(64),
        "the settings are refused on {who}: {message}",
        "{again} --set trainer.NAME=VALUE",
    ),
    Row(
        "data error",
        (FAILED,),
        endings.ended_with(65),
        "the data cannot be used: {message}",
        "correct the data, then: {again}",
    ),
    Row(
        "no intact checkpoint",
        (FAILED,),
        endings.ended_with(66),
        "checkpoints exist and none is intact: {message}",
        "restore one on the claim, then: {again}",
    ),
    Row(
        "restarts used up",
        (FAILED,),
        endings.ended_with(69),
        "the restarts are used up: {message}",
        "mend what is named, then: {again}",
    ),
    Row(
        "time used up",
        (FAILED,),
        endings.ended_with(71),
        "max_hours is reached, and a checkpoint is written",
        "{again} --set trainer.max_hours=null",
    ),
    Row(
        "output volume unusable",
        (FAILED,),
        endings.ended_with(74),
        "the claim for results cannot be used from {who}: {message}",
        "kubectl describe pvc {ns}",
    ),
    Row(
        "training failed",
        (FAILED,),
        endings.ended_with(70),
        "training failed on {who}: {message}",
        "distrain logs {run} {ns} --tail 50",
    ),
    # What the machines did to its pods
    Row(
        "evicted",
        (HOLDING, RESTARTING, FAILED),
        endings.evicted,
        "{who} was sent away by {node}: {message}",
        "request what it uses: {again} --set resources.{option}=SIZE",
    ),
    Row(
        "preempted",
        (HOLDING, RESTARTING, FAILED),
        endings.preempted,
        "{who} has had to make room on {node} for a pod of higher priority",
        "{again} --set priorityClassName=NAME",
    ),
    Row(
        "node gone",
        STUCK,
        endings.machine_gone,
        "{node} does not answer, and {who} cannot be replaced before it does",
        "kubectl delete pod {pod} {ns} --force --grace-period=0",
    ),
    Row(
        "same node failing twice",
        STUCK,
        endings.same_machine,
        "the run has failed {count} times on {node}, and not elsewhere as often",
        "{again} --set avoidNodes={{{node}}}",
    ),
    Row(
        "recreated again and again",
        STUCK,
        endings.recreated,
        "{who} has been made {count} times and never started{message}",
        "kubectl describe pod {pod} {ns}",
    ),
    # What a pod waits for
    Row(
        "image refused",
        STUCK,
        waits.image_refused,
        "{who} may not pull the image {image}: {message}",
        "{again} --set imagePullSecrets={{SECRET}}",
    ),
    Row(
        "wrong image tag",
        STUCK,
        waits.image_missing,
        "{who} waits for the image {image}, which its registry does not have",
        "{again} --set image.tag=TAG",
    ),
    Row(
        "image not pulled",
        STUCK,
        waits.image_not_pulled,
        "{who} cannot pull the image {image}: {message}",
        "kubectl describe pod {pod} {ns}",
    ),
    Row(
        "missing secret",
        STUCK,
        waits.secret_missing,
        "{who} waits for {what}, which is not there",
        "kubectl create {object} {name} {ns} --from-literal=KEY=VALUE",
    ),
    Row(
        "missing claim",
        STUCK,
        waits.claim_missing,
        "{who} waits for the claim {claim}, which is not there",
        "kubectl get pvc {ns}",
    ),
    Row(
        "claim not bound",
        STUCK,
        waits.claim_unbound,
        "{who} waits for a volume of the claim {claim}{message}",
        "kubectl describe pvc {claim} {ns}",
    ),
    Row(
        "unschedulable: GPU",
        STUCK,
        waits.unschedulable("gpu"),
        "no node has room for {who}: {message}",
        "ask for fewer ({again} --set gpus=N), or wait until some are free: distrain list -A",
    ),
    Row(
        "unschedulable: CPU",
        STUCK,
        waits.unschedulable("cpu"),
        "no node has room for {who}: {message}",
        "{again} --set resources.requests.cpu=N",
    ),
    Row(
        "unschedulable: memory",
        STUCK,
        waits.unschedulable("memory"),
        "no node has room for {who}: {message}",
        "{again} --set resources.requests.memory=SIZE",
    ),
    Row(
        "unschedulable: selector",
        STUCK,
        waits.unschedulable("selector"),
        "no node fits {who}: {message}",
        "{again} --set nodeSelector.LABEL=VALUE, as in kubectl get nodes --show-labels",
    ),
    Row(
        "unschedulable: taint",
        STUCK,
        waits.unschedulable("taint"),
        "no node takes {who}: {message}",
        "{again} --set tolerations[0].operator=Exists --set tolerations[0].key=KEY, as in kubectl describe nodes",
    ),
    Row(
        "unschedulable",
        STUCK,
        waits.unschedulable("any"),
        "no node takes {who}: {message}",
        "kubectl describe pod {pod} {ns}",
    ),
    Row(
        "init container fails",
        STUCK,
        waits.init_failed,
        "the init container {container} of {who} ends with {code}",
        "kubectl logs {pod} {ns} -c {container}",
    ),
    Row(
        "crash loop",
        STUCK,
        waits.crash_loop,
        "{who} has ended {count} times, the last time with {code}",
        "kubectl logs {pod} {ns} --previous",
    ),
    Row(
        "volume not mounted",
        STUCK,
        waits.mount_failed,
        "{who} waits for a volume: {message}",
        "kubectl describe pod {pod} {ns}",
    ),
    Row(
        "container not made",
        STUCK,
        waits.container_not_made,
        "{node} cannot make the container of {who}: {message}",
        "kubectl describe pod {pod} {ns}",
    ),
    # Where there is no pod
    Row(
        "ResourceQuota",
        STUCK,
        waits.quota_used_up,
        "the ResourceQuota {quota} has no room for the run: {message}",
        "kubectl describe resourcequota {quota} {ns}",
    ),
    Row(
        "webhook down",
        STUCK,
        waits.webhook_down,
        "the pods cannot be made, since the webhook {webhook} does not answer: {message}",
        "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    ),
    Row(
        "pod refused",
        STUCK,
        waits.pod_refused,
        "the pods are refused: {message}",
        "kubectl get namespace --show-labels (docs/kubernetes.md says what Pod Security needs)",
    ),
    Row(
        "pods not made",
        STUCK,
        waits.not_created,
        "the pods cannot be made: {message}",
        "distrain events {run} {ns}",
    ),
    Row(
        "operator not running",
        STUCK,
        waits.operator_away,
        "{operator} has not looked at the run for {age} s; it is not running, or not for this namespace",
        "kubectl get deployment -n {deployment}",
    ),
    Row(
        "Kueue waiting",
        (QUEUED,),
        waits.queued,
        "it waits in the queue {queue}: {message}",
        "kubectl describe workload {workload} {ns}",
    ),
    # Why it is started again
    Row(
        "out of memory",
        (RESTARTING, FAILED),
        endings.out_of_memory,
        "{who} was out of memory: {message}",
        "{again} --set resources.limits.memory=SIZE, or a smaller --set trainer.batch.tokens=N",
    ),
    Row(
        "lost peer",
        (RESTARTING,),
        endings.lost_peer,
        "{who} ended: {message}",
        "distrain events {run} {ns}",
    ),
    Row(
        "drained",
        (RESTARTING,),
        endings.drained,
        "{who} was evicted from {node}, {why}; it is replaced",
    ),
    Row("asked to leave", (RESTARTING,), endings.asked_to_leave, "{who} was asked to leave and is replaced"),
    # Failed, and none of the above
    Row("failed", (FAILED,), endings.ended, "{who} ended with {code}: {message}", "distrain logs {run} {ns} --tail 50"),
    Row("failed", (FAILED,), endings.job_failed, "the job has failed: {message}", "distrain events {run} {ns}"),
    # What the API server answers to a command
    Row("CRD not installed", (ASKING,), None, "the cluster does not know pytorchjobs", "distrain doctor"),
    Row("no permission", (ASKING,), None, "which verb on what, and in which namespace", "kubectl auth can-i VERB KIND"),
    Row("unreachable API server", (ASKING,), None, "the API server does not answer, and why", "kubectl cluster-info"),
    Row("unexpected answer", (ASKING,), None, "what the API server has answered", ""),
)


def cause_of(seen: Evidence, stage: Stage) -> Cause | None:
    """The first cause of the table that is seen of the run; None where none is."""
    for row in CAUSES:
        if stage in row.stages and row.sign is not None and (words := row.sign(seen)) is not None:
            return _cause(row, words, seen)
    return None


def cause_of_error(error: ClientError) -> Cause:
    """The cause of a command that could not ask the cluster."""
    sentence, _, mend = str(error).partition("; ")
    return Cause(error.cause, sentence, mend)


def _cause(row: Row, words: Mapping[str, str], seen: Evidence) -> Cause:
    option = f"-n {seen.job.namespace}"
    known = {"run": seen.job.name, "ns": option, "again": f"distrain resume {seen.job.name} {option}", **words}
    mend = row.mend
    if "{again}" in mend and not seen.job.is_helm:
        mend = "correct its manifest, then: kubectl replace --force {ns} -f FILE"
    # What a container or the cluster has said may name an address with a password in it.
    sentence = redacted_text(" ".join(row.sentence.format_map(known).split()))
    return Cause(row.name, sentence, redacted_text(mend.format_map(known)))
