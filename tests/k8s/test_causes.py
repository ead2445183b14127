"""The table of causes: each row from what the cluster shows, as its sentence and the command that mends it."""

from typing import Any

import pytest

from distrain_k8s.diagnose.causes import CAUSES, Stage, cause_of_error
from distrain_k8s.diagnose.waits import lacks
from distrain_k8s.errors import Forbidden, NotServed, Unreachable
from distrain_k8s.runs.status import Run
from evidence import run
from made import IMAGE, ended, event, pod, pytorchjob, trainjob, waiting, workload

Object = dict[str, Any]
PULL = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}"'
NONE = "0/3 nodes are available: "
CONTROL_PLANE = "1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }"
PREEMPTION = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."


def stuck(state: Object, *events: Object) -> Run:
    return run(pytorchjob(), pod(), pod(rank=1, state=state, phase="Pending"), events=events)


def unscheduled(message: str, *events: Object) -> Run:
    return run(pytorchjob(), pod(), pod(rank=1, unscheduled=message), events=events)


def not_made(message: str) -> Run:
    return run(pytorchjob(states=("Created",)), events=(event("FailedCreatePod", message),))


def failed(code: int, message: str, reason: str = "") -> Run:
    other = pod(rank=1, state=ended(138, "lost node 0"), phase="Failed")
    first = pod(state=ended(code, message, reason), phase="Failed")
    return run(pytorchjob(states=("Created", "Failed"), message="PyTorchJob run1 is failing"), first, other)


def restarting(*pods: Object, **more: Any) -> Run:
    return run(pytorchjob(states=("Created", "Restarting")), *pods, **more)


def disrupted(reason: str, message: str) -> list[Object]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]


AGAIN = "distrain resume run1 -n team"
DESCRIBE = "kubectl describe pod run1-worker-0 -n team"
CASES: dict[str, tuple[str, Run, str, str]] = {
    "a tag that the registry does not have": (
        "wrong image tag",
        stuck(waiting("ErrImagePull", f"rpc error: code = NotFound desc = {PULL}: {IMAGE}: not found")),
        f"node 1 waits for the image {IMAGE}, which its registry does not have",
        f"{AGAIN} --set image.tag=TAG",
    ),
    "kubelet backing off from it": (
        "wrong image tag",
        stuck(
            waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'),
            event(
                "Failed",
                f'Failed to pull image "{IMAGE}": rpc error: code = NotFound desc = {PULL}: not found',
                "run1-worker-0",
                "Pod",
            ),
        ),
        f"node 1 waits for the image {IMAGE}, which its registry does not have",
        f"{AGAIN} --set image.tag=TAG",
    ),
    "a registry that wants credentials": (
        "image refused",
        stuck(
            waiting(
                "ErrImagePull", f"{PULL}: pull access denied, repository does not exist or may require authorization"
            )
        ),
        f"node 1 may not pull the image {IMAGE}",
        f"{AGAIN} --set imagePullSecrets={{SECRET}}",
    ),
    "a registry that is away": (
        "image not pulled",
        stuck(waiting("ErrImagePull", f"{PULL}: dial tcp 10.0.0.1:443: i/o timeout")),
        "i/o timeout",
        DESCRIBE,
    ),
    "a Secret": (
        "missing secret",
        stuck(waiting("CreateContainerConfigError", 'secret "hugging-face" not found')),
        "node 1 waits for the Secret hugging-face, which is not there",
        "kubectl create secret generic hugging-face -n team --from-literal=KEY=VALUE",
    ),
    "a key of a Secret": (
        "missing secret",
        stuck(waiting("CreateContainerConfigError", "couldn't find key token in Secret team/hugging-face")),
        "node 1 waits for the key token of the Secret hugging-face, which is not there",
        "kubectl create secret generic hugging-face -n team --from-literal=KEY=VALUE",
    ),
    "a ConfigMap that is mounted": (
        "missing secret",
        stuck(
            waiting("ContainerCreating"),
            event(
                "FailedMount",
                'MountVolume.SetUp failed for volume "ca" : configmap "ca" not found',
                "run1-worker-0",
                "Pod",
            ),
        ),
        "node 1 waits for the ConfigMap ca, which is not there",
        "kubectl create configmap ca -n team --from-literal=KEY=VALUE",
    ),
    "a claim that is not there": (
        "missing claim",
        unscheduled(f'{NONE}persistentvolumeclaim "corpus" not found.{PREEMPTION}'),
        "node 1 waits for the claim corpus, which is not there",
        "kubectl get pvc -n team",
    ),
    "a claim without a volume": (
        "claim not bound",
        unscheduled(
            f"{NONE}pod has unbound immediate PersistentVolumeClaims.{PREEMPTION}",
            event(
                "ProvisioningFailed",
                'storageclass.storage.k8s.io "fast" not found',
                "run1-checkpoint",
                "PersistentVolumeClaim",
            ),
        ),
        'node 1 waits for a volume of the claim run1-checkpoint: storageclass.storage.k8s.io "fast" not found',
        "kubectl describe pvc run1-checkpoint -n team",
    ),
    "no GPU": (
        "unschedulable: GPU",
        unscheduled(f"{NONE}{CONTROL_PLANE}, 2 Insufficient nvidia.com/gpu.{PREEMPTION}"),
        "no node has room for node 1: 2 nodes without enough nvidia.com/gpu, 1 node with the taint "
        "node-role.kubernetes.io/control-plane",
        f"ask for fewer ({AGAIN} --set gpus=N), or wait until some are free: distrain list -A",
    ),
    "no CPU": (
        "unschedulable: CPU",
        unscheduled(f"{NONE}{CONTROL_PLANE}, 2 Insufficient cpu.{PREEMPTION}"),
        "2 nodes without enough cpu",
        f"{AGAIN} --set resources.requests.cpu=N",
    ),
    "no memory": (
        "unschedulable: memory",
        unscheduled(f"{NONE}3 Insufficient memory.{PREEMPTION}"),
        "3 nodes without enough memory",
        f"{AGAIN} --set resources.requests.memory=SIZE",
    ),
    "no such label": (
        "unschedulable: selector",
        unscheduled(f"{NONE}3 node(s) didn't match Pod's node affinity/selector.{PREEMPTION}"),
        "no node fits node 1: 3 nodes without the labels of nodeSelector or affinity",
        f"{AGAIN} --set nodeSelector.LABEL=VALUE, as in kubectl get nodes --show-labels",
    ),
    "a taint": (
        "unschedulable: taint",
        unscheduled(f"{NONE}{CONTROL_PLANE}, 2 node(s) had untolerated taint {{nvidia.com/gpu: present}}.{PREEMPTION}"),
        "2 nodes with the taint nvidia.com/gpu: present",
        f"{AGAIN} --set tolerations[0].operator=Exists --set tolerations[0].key=KEY, as in kubectl describe nodes",
    ),
    "a taint that Kubernetes 1.34 does not name": (
        "unschedulable: taint",
        unscheduled(f"{NONE}3 node(s) had untolerated taint(s). no new claims to deallocate,{PREEMPTION}"),
        "no node takes node 1: 3 nodes with taints that it does not tolerate",
        f"{AGAIN} --set tolerations[0].operator=Exists --set tolerations[0].key=KEY, as in kubectl describe nodes",
    ),
    "another reason of the scheduler's": (
        "unschedulable",
        unscheduled(f"{NONE}3 Too many pods.{PREEMPTION}"),
        "no node takes node 1: 0/3 nodes are available: 3 Too many pods",
        DESCRIBE,
    ),
    "a ResourceQuota": (
        "ResourceQuota",
        not_made(
            'Error creating: pods "run1-master-0" is forbidden: exceeded quota: small, requested: requests.cpu=4, '
            "used: requests.cpu=2, limited: requests.cpu=4"
        ),
        "the ResourceQuota small has no room for the run: requested: requests.cpu=4, used: requests.cpu=2, limited: "
        "requests.cpu=4",
        "kubectl describe resourcequota small -n team",
    ),
    "Pod Security": (
        "pod refused",
        not_made(
            'pods "run1-master-0" is forbidden: violates PodSecurity "restricted:latest": unrestricted capabilities'
        ),
        'the pods are refused: violates PodSecurity "restricted:latest": unrestricted capabilities',
        "kubectl get namespace --show-labels (docs/kubernetes.md says what Pod Security needs)",
    ),
    "a webhook": (
        "webhook down",
        not_made(
            'Internal error occurred: failed calling webhook "mpod.kb.io": failed to call webhook: Post '
            '"https://kueue:443/mutate": dial tcp 10.0.0.9:443: connect: connection refused'
        ),
        "the pods cannot be made, since the webhook mpod.kb.io does not answer",
        "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    ),
    "no operator": (
        "operator not running",
        run(pytorchjob(states=(), age=75)),
        "Kubeflow's training operator has not looked at the run for 75 s; it is not running, or not for this namespace",
        "kubectl get deployment -n kubeflow training-operator",
    ),
    "no Trainer": (
        "operator not running",
        run(trainjob(age=75, seen=False)),
        "Kubeflow Trainer has not looked at the run for 75 s; it is not running, or not for this namespace",
        "kubectl get deployment -n kubeflow-system kubeflow-trainer-controller-manager",
    ),
    "a queue": (
        "Kueue waiting",
        run(pytorchjob(suspend=True, queue="queue"), queue=workload(message="insufficient unused quota")),
        "it waits in the queue queue: insufficient unused quota",
        "kubectl describe workload pytorchjob-run1-12345 -n team",
    ),
    "an init container": (
        "init container fails",
        run(
            pytorchjob(),
            pod(),
            pod(
                rank=1,
                state=waiting("PodInitializing"),
                phase="Pending",
                initContainerStatuses=[{"name": "download", "restartCount": 2, "state": ended(2)}],
            ),
        ),
        "the init container download of node 1 ends with 2",
        "kubectl logs run1-worker-0 -n team -c download",
    ),
    "a machine that cannot make containers": (
        "container not made",
        stuck(
            waiting("ContainerCreating"),
            event("FailedCreatePodSandBox", "failed to setup network", "run1-worker-0", "Pod"),
        ),
        "worker-1 cannot make the container of node 1: failed to setup network",
        DESCRIBE,
    ),
    "a volume that another machine holds": (
        "volume not mounted",
        stuck(
            waiting("ContainerCreating"),
            event("FailedAttachVolume", "Multi-Attach error for volume", "run1-worker-0", "Pod"),
        ),
        "node 1 waits for a volume: Multi-Attach error for volume",
        DESCRIBE,
    ),
    "settings": (
        "settings refused",
        failed(64, "model.name /data/nothing is not a folder here; check the path"),
        "the settings are refused on node 0: model.name /data/nothing is not a folder here; check the path",
        f"{AGAIN} --set trainer.NAME=VALUE",
    ),
    "data": ("data error", failed(65, "no column text"), "the data cannot be used: no column text", AGAIN),
    "checkpoints": ("no intact checkpoint", failed(66, "no manifest"), "none is intact: no manifest", AGAIN),
    "restarts": (
        "restarts used up",
        failed(69, "failed three times at step 12: killed"),
        "the restarts are used up: failed three times at step 12: killed",
        AGAIN,
    ),
    "a bug": (
        "training failed",
        failed(70, "unforeseen error: KeyError"),
        "training failed on node 0: unforeseen error: KeyError",
        "distrain logs run1 -n team --tail 50",
    ),
    "time": ("time used up", failed(71, "max_hours"), "max_hours is reached", f"{AGAIN} --set trainer.max_hours=null"),
    "the volume": (
        "output volume unusable",
        failed(74, "/out is read-only"),
        "the claim for results cannot be used from node 0: /out is read-only",
        "kubectl describe pvc -n team",
    ),
    "another exit code": (
        "failed",
        failed(3, "oops"),
        "node 0 ended with 3: oops",
        "distrain logs run1 -n team --tail 50",
    ),
    "a failed job without pods": (
        "failed",
        run(pytorchjob(states=("Failed",), message="PyTorchJob run1 has failed")),
        "the job has failed: PyTorchJob run1 has failed",
        "distrain events run1 -n team",
    ),
    "memory, in a job that is not restarted": (
        "out of memory",
        failed(137, "", "OOMKilled"),
        "node 0 was out of memory: OOMKilled",
        f"{AGAIN} --set resources.limits.memory=SIZE, or a smaller --set trainer.batch.tokens=N",
    ),
    "memory, of a pod that was replaced": (
        "out of memory",
        restarting(
            pod(),
            pod(rank=1, state=waiting("ContainerCreating"), phase="Pending"),
            events=(event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 137"),),
        ),
        "node 1 was out of memory: killed with SIGKILL",
        f"{AGAIN} --set resources.limits.memory=SIZE, or a smaller --set trainer.batch.tokens=N",
    ),
    "an eviction": (
        "evicted",
        restarting(
            pod(),
            pod(rank=1, state={}, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        ),
        "node 1 was sent away by worker-1: The node was low on resource: memory",
        f"request what it uses: {AGAIN} --set resources.requests.memory=SIZE",
    ),
    "too much on a machine's disk": (
        "evicted",
        restarting(
            pod(),
            events=(
                event(
                    "Evicted",
                    "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.",
                    "run1-worker-0",
                    "Pod",
                ),
            ),
        ),
        "node 1 was sent away by its machine: Pod ephemeral local storage usage exceeds the total limit of "
        "containers 1Mi",
        f"request what it uses: {AGAIN} --set resources.limits.ephemeral-storage=SIZE",
    ),
    "room for others": (
        "preempted",
        restarting(pod(), pod(rank=1, deleted=-20, conditions=disrupted("PreemptionByScheduler", "gpu-scheduler"))),
        "node 1 has had to make room on worker-1 for a pod of higher priority",
        f"{AGAIN} --set priorityClassName=NAME",
    ),
    "a machine that is being drained": (
        "drained",
        restarting(
            pod(), pod(rank=1, deleted=-20, conditions=disrupted("EvictionByEvictionAPI", "Eviction API: evicting"))
        ),
        "node 1 was evicted from worker-1, as when a node is drained; it is replaced",
        "",
    ),
    "a machine that is no longer there": (
        "drained",
        restarting(pod(), pod(rank=1, deleted=-20, conditions=disrupted("DeletionByPodGC", "PodGC: node is gone"))),
        "node 1 was evicted from worker-1, since that node is gone; it is replaced",
        "",
    ),
    "memory of a machine": (
        "evicted",
        restarting(
            pod(),
            pod(
                rank=1,
                deleted=-20,
                conditions=disrupted("TerminationByKubelet", "The node was low on resource: memory."),
            ),
        ),
        "node 1 was sent away by worker-1: The node was low on resource: memory",
        f"request what it uses: {AGAIN} --set resources.requests.memory=SIZE",
    ),
    "a peer": (
        "lost peer",
        restarting(pod(), pod(rank=1, state=ended(138, "lost node 0 (gpu-1): no heartbeat for 10 s"), phase="Failed")),
        "node 1 ended: lost node 0 (gpu-1): no heartbeat for 10 s",
        "distrain events run1 -n team",
    ),
    "a machine that is gone": (
        "node gone",
        restarting(pod(), pod(rank=1, deleted=60, node="gpu-7")),
        "gpu-7 does not answer, and node 1 cannot be replaced before it does",
        "kubectl delete pod run1-worker-0 -n team --force --grace-period=0",
    ),
    "one machine again and again": (
        "same node failing twice",
        restarting(
            pod(),
            pod(rank=1, state=waiting("ContainerCreating"), phase="Pending", uid="third", node=None),
            events=(
                event(
                    "Scheduled", "Successfully assigned team/run1-worker-0 to gpu-3", "run1-worker-0", "Pod", uid="1"
                ),
                event(
                    "Scheduled", "Successfully assigned team/run1-worker-0 to gpu-3", "run1-worker-0", "Pod", uid="2"
                ),
                event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 138", count=2),
            ),
        ),
        "the run has failed 2 times on gpu-3, and not elsewhere as often",
        f"{AGAIN} --set avoidNodes={{gpu-3}}",
    ),
    "an image without the program, on one machine only": (
        "recreated again and again",
        restarting(
            pod(state=ended(128, "exec: distrain: not found", "StartError"), phase="Failed", node="gpu-3"),
            events=(
                *(
                    event(
                        "Scheduled",
                        "Successfully assigned team/run1-master-0 to gpu-3",
                        "run1-master-0",
                        "Pod",
                        uid=uid,
                    )
                    for uid in "1234"
                ),
                event("ExitedWithCode", "Pod: team.run1-master-0 exited with code 128", count=4),
                event("SuccessfulCreatePod", "Created pod: run1-master-0", count=5, warning=False),
            ),
        ),
        "node 0 has been made 5 times and never started: exec: distrain: not found",
        "kubectl describe pod run1-master-0 -n team",
    ),
    "memory that ran out twice on one machine": (
        "out of memory",
        restarting(
            pod(state=ended(137, "", "OOMKilled"), phase="Failed", node="gpu-3"),
            events=(
                event(
                    "Scheduled", "Successfully assigned team/run1-master-0 to gpu-3", "run1-master-0", "Pod", uid="1"
                ),
                event("ExitedWithCode", "Pod: team.run1-master-0 exited with code 137", count=2),
            ),
        ),
        "node 0 was out of memory: OOMKilled",
        f"{AGAIN} --set resources.limits.memory=SIZE, or a smaller --set trainer.batch.tokens=N",
    ),
    "a pod that never starts": (
        "recreated again and again",
        restarting(
            pod(),
            pod(rank=1, state=ended(128, "no such device", "StartError"), phase="Failed"),
            events=(event("SuccessfulCreatePod", "Created pod: run1-worker-0", count=6, warning=False),),
        ),
        "node 1 has been made 6 times and never started: no such device",
        DESCRIBE,
    ),
    "a pod that is just being made again": (
        "recreated again and again",
        restarting(
            pod(rank=0, state=waiting("ContainerCreating"), phase="Pending"),
            events=(
                event("Failed", "Error: exec: distrain: not found", "run1-master-0", "Pod"),
                event("SuccessfulCreatePod", "Created pod: run1-master-0", count=6, warning=False),
            ),
        ),
        "node 0 has been made 6 times and never started: Error: exec: distrain: not found",
        "kubectl describe pod run1-master-0 -n team",
    ),
    "a machine that is drained": (
        "asked to leave",
        restarting(pod(), events=(event("ExitedWithCode", "Pod: team.run1-worker-0 exited with code 143"),)),
        "node 1 was asked to leave and is replaced",
        "",
    ),
    "other people's crash loop": (
        "crash loop",
        stuck({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}),
        "node 1 has ended 0 times",
        "kubectl logs run1-worker-0 -n team --previous",
    ),
    "pods that cannot be made": (
        "pods not made",
        not_made("etcd is sad"),
        "etcd is sad",
        "distrain events run1 -n team",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cause_is_told_with_its_mend(case: str) -> None:
    name, found, sentence, mend = CASES[case]
    assert found.cause, found
    assert found.cause.name == name, found.cause
    assert sentence in found.cause.sentence
    assert mend in found.cause.mend and (mend or not found.cause.mend)


def test_every_row_has_a_case() -> None:
    asked = {row.name for row in CAUSES if row.stages == (Stage.ASKING,)}
    told = {cause_of_error(error("x; y")).name for error in (Forbidden, NotServed, Unreachable)}
    assert {name for name, *_ in CASES.values()} == {row.name for row in CAUSES} - asked
    assert told < asked


def test_the_first_to_fail_is_told_and_not_those_that_followed() -> None:
    followed = pod(state=ended(138, "lost node 1"), phase="Failed")
    first = pod(rank=1, state=ended(64, "wrong"), phase="Failed")
    found = run(pytorchjob(states=("Failed",)), followed, first)
    assert found.cause and found.cause.sentence == "the settings are refused on node 1: wrong"


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        (
            f"{NONE}{CONTROL_PLANE}, 1 Insufficient cpu, 1 Insufficient memory, 2 Insufficient nvidia.com/gpu.",
            ["gpu", "cpu", "memory", "taint"],
        ),
        (
            f"{NONE}{CONTROL_PLANE}, 2 node(s) didn't match Pod's node affinity/selector. preemption: none",
            ["selector", "taint"],
        ),
        ("0/3 nodes are available: 3 node(s) were unschedulable.", ["other"]),
        ("", []),
        ("nothing like it", []),
    ],
)
def test_what_nodes_lack_is_sorted_by_what_matters(message: str, kinds: list[str]) -> None:
    assert [kind for kind, _ in lacks(message)] == kinds
