"""A pod that hands out the files of a run: the run's image, no GPU, and its claim, read-only.

It goes when it has been used, also on Ctrl-C, and by itself after an hour if this machine dies.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distrain_k8s.errors import ClientError, ConnectionLost, NotFound
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.execute import execute
from distrain_k8s.kube.objects import read_pod
from distrain_k8s.kube.resources import CLAIMS, CONFIG_MAPS, PODS, RUNTIMES
from distrain_k8s.render import Document
from distrain_k8s.runs.jobs import pods_of

LIFETIME = 3600
"""Seconds after which the pod ends whatever happens here."""
START = 300
"""Seconds that it may take to start: its image may have to be pulled."""
TRIES = 5
"""Connections for one file, each of which goes on where the last one broke."""
HOPELESS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)

LIST = """
import json, os, sys
root = os.path.realpath(sys.argv[1])
if not os.path.isdir(root):
    sys.exit(3)
found = {}
for folder, names, files in os.walk(root):
    names[:] = [n for n in names if not n.startswith("tmp.")]
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            target = os.path.realpath(path)
            inside = os.path.islink(path) and target.startswith(root + os.sep)
            link = os.path.relpath(target, root) if inside else None
            found[os.path.relpath(path, root)] = [os.stat(path).st_size, link]
json.dump(found, sys.stdout)
"""
SEND = """
import hashlib, sys
path, start = sys.argv[1], int(sys.argv[2])
digest, at = hashlib.sha256(), 0
with open(path, "rb") as file:
    while piece := file.read(1 << 20):
        digest.update(piece)
        if at + len(piece) > start:
            sys.stdout.buffer.write(piece[max(start - at, 0):])
        at += len(piece)
sys.stdout.buffer.flush()
sys.stderr.write(f"{at} {digest.hexdigest()}")
"""
REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=False)"


class Stored(NamedTuple):
    """A file of a run. size: bytes. link: the path below the run's folder that it is a link to, None for a file."""

    size: int
    link: str | None


@dataclass(frozen=True)
class Reader:
    """A reader that runs. folder: of the run, in the pod."""

    api: Api
    pod: str
    run: str
    folder: str

    def files(self) -> dict[str, Stored]:
        """Path below the run's folder -> what is there. Raises NotFound where the run has not written anything."""
        answer = execute(self.api, self.pod, ["python3", "-c", LIST, self.folder])
        if answer.code == 3:
            raise NotFound(f"the run {self.run} has not written anything yet", "folder", self.folder)
        if answer.code != 0:
            raise ClientError(f"the files of {self.run} cannot be listed: {answer.error()}")
        return {path: Stored(*entry) for path, entry in json.loads(answer.output).items()}

    def save(self, path: str, target: Path, progress: Callable[[int], None] = lambda _: None) -> str:
        """Writes a file of the run to this machine, whole or not at all; its SHA-256. progress: told of each piece.

        A connection that breaks is made again, and goes on at the byte where it broke.
        """
        part = target.with_name(target.name + ".part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                digest = self._receive(path, file.write, progress)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return digest

    def read(self, path: str) -> bytes:
        """A small file of the run."""
        pieces: list[bytes] = []
        self._receive(path, pieces.append, lambda _: None)
        return b"".join(pieces)

    def _receive(self, path: str, write: Callable[[bytes], Any], progress: Callable[[int], None]) -> str:
        digest, got = hashlib.sha256(), 0
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(2.0**attempt, 10))
            at = got

            def take(piece: bytes) -> None:
                nonlocal got
                write(piece)
                digest.update(piece)
                got += len(piece)
                progress(len(piece))

            command = ["python3", "-c", SEND, f"{self.folder}/{path}", str(at)]
            try:
                answer = execute(self.api, self.pod, command, take)
            except ConnectionLost as error:
                why = str(error)
                continue
            if answer.code != 0:
                raise ClientError(f"{path} of {self.run} cannot be read: {answer.error()}")
            size, _, wanted = answer.errors.decode().rpartition("\n")[2].partition(" ")
            if got < int(size):  # the end of a stream may be lost when a command ends
                why = f"{got} of {size} bytes came"
                continue
            if digest.hexdigest() != wanted:
                raise ClientError(
                    f"{path} of {self.run} arrived damaged (its SHA-256 differs), or it was being written; try again"
                )
            return wanted
        raise ConnectionLost(f"{path} of {self.run} could not be fetched in {TRIES} tries: {why}")


@contextmanager
def reader(api: Api, job: Document, run: str, say: Callable[[str], None], writes: bool = False) -> Iterator[Reader]:
    """A reader for a run's files while the block runs. job: as the API has it. writes: it may also change them."""
    template = pod_template(api, job)
    claim = _claim_in(template)
    if claim is None:
        raise NotFound(
            f"{run} has no claim (persistence.enabled is false), so its files are gone with its pods", "claim", run
        )
    body = reader_pod(api, template, run, claim, writes)
    name = body["metadata"]["name"]
    try:
        api.create(PODS, body)
        say(f"starting the pod {name}, which hands out the files of {run}")
        _wait_until_ready(api, name, run)
        yield Reader(api, name, run, output_folder(api, run))
    finally:
        _remove(api, name, say)


def reader_pod(api: Api, template: Document, run: str, claim: str, writes: bool = False) -> Document:
    """The pod's manifest: restricted, without GPU, and on the node of the run's pods where the claim is tied to one."""
    spec = template["spec"]
    trainer = spec["containers"][0]
    container = {
        "name": "reader",
        "image": trainer["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", str(LIFETIME)],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "volumeMounts": [{"name": "out", "mountPath": "/out", "readOnly": not writes}],
    }
    context = {**(spec.get("securityContext") or {})}
    if context.get("runAsUser") == 0:
        context |= {"runAsUser": 1000, "runAsNonRoot": True}
    made: Document = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFETIME,
        "terminationGracePeriodSeconds": 1,
        "securityContext": context or {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "out", "persistentVolumeClaim": {"claimName": claim}}],
    }
    for name in ("imagePullSecrets", "tolerations", "nodeSelector", "serviceAccountName"):
        if spec.get(name):
            made[name] = spec[name]
    if node := node_of_claim(api, run, claim):
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        made["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        made["tolerations"] = [*made.get("tolerations", []), {"operator": "Exists", "effect": "NoSchedule"}]
    annotations = {
        "sidecar.istio.io/inject": "false",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }
    metadata = {
        "name": f"{run}-reader-{secrets.token_hex(3)}",
        "labels": {"app.kubernetes.io/name": "distrain-reader", "app.kubernetes.io/component": "reader"},
        "annotations": annotations,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made}


def pod_template(api: Api, job: Document) -> Document:
    """The template of a run's first pod: of the job, or of its runtime."""
    if replicas := job["spec"].get("pytorchReplicaSpecs"):
        template: Document = (replicas.get("Master") or next(iter(replicas.values())))["template"]
        return template
    runtime = api.get(RUNTIMES, job["spec"]["runtimeRef"]["name"])
    first = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    found: Document = first["template"]["spec"]["template"]
    return found


def claim_of(job: Document) -> str | None:
    """The claim that a PyTorchJob writes to; None for a TrainJob, whose runtime says it."""
    replicas = job["spec"].get("pytorchReplicaSpecs")
    return _claim_in(next(iter(replicas.values()))["template"]) if replicas else None


def _claim_in(template: Document) -> str | None:
    for volume in template["spec"].get("volumes") or []:
        if volume["name"] == "out" and "persistentVolumeClaim" in volume:
            name: str = volume["persistentVolumeClaim"]["claimName"]
            return name
    return None


def output_folder(api: Api, run: str) -> str:
    """Where the run writes, in its pods."""
    try:
        data = api.get(CONFIG_MAPS, f"{run}-settings").get("data") or {}
    except NotFound:
        data = {}
    return str(data.get("DISTRAIN_OUTPUT_DIR") or f"/out/{run}")


def node_of_claim(api: Api, run: str, claim: str) -> str | None:
    """The node that a claim is tied to while pods of the run use it; None where any node will do."""
    modes = api.get(CLAIMS, claim).get("spec", {}).get("accessModes") or []
    if "ReadWriteMany" in modes:
        return None
    using = [read_pod(raw) for raw in pods_of(api, run)]
    node = next((pod.node for pod in using if pod.node and pod.phase in ("Pending", "Running")), None)
    if node and "ReadWriteOncePod" in modes:
        raise ClientError(
            f"the claim {claim} admits one pod at a time, and the run has it; stop it first: distrain stop {run} --wait"
        )
    return node


def _wait_until_ready(api: Api, name: str, run: str) -> None:
    started = time.monotonic()
    while True:
        pod = read_pod(api.get(PODS, name))
        if pod.phase == "Running" and all(container.state == "running" for container in pod.containers):
            return
        waiting = next((container for container in pod.containers if container.reason in HOPELESS), None)
        if waiting and time.monotonic() - started > 5:
            raise ClientError(
                f"the reader of {run} cannot start: {waiting.reason}: {waiting.message or 'image ' + pod.image}"
            )
        if pod.phase in ("Failed", "Succeeded"):
            raise ClientError(f"the reader of {run} ended at once: {pod.reason or pod.message or pod.phase}")
        if time.monotonic() - started > START:
            scheduled = pod.condition("PodScheduled")
            why = scheduled.message if scheduled and not scheduled.status else "its image or its volume does not come"
            raise ClientError(f"the reader of {run} did not start within {START} s: {why}")
        time.sleep(0.5)


def _remove(api: Api, name: str, say: Callable[[str], None]) -> None:
    try:
        api.delete(PODS, name, grace=0)
    except NotFound:
        pass
    except ClientError as error:
        say(f"the pod {name} could not be removed ({error}); it ends within an hour, or: kubectl delete pod {name}")


def remove_folder(api: Api, job: Document, run: str, say: Callable[[str], None]) -> None:
    """Removes a run's folder from a claim that other runs use too."""
    with reader(api, job, run, say, writes=True) as found:
        answer = execute(api, found.pod, ["python3", "-c", REMOVE, found.folder], limit=600)
        if answer.code != 0 and "FileNotFoundError" not in answer.error():
            raise ClientError(f"the folder {found.folder} cannot be removed: {answer.error()}")
