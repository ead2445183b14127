"""`distrain doctor --network`: two nodes or more run the preflight alone, in pods like those of a run, and measure the
network between them. What was made for it is removed afterwards, also on Ctrl-C."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distrain_k8s.diagnose.doctor import Line
from distrain_k8s.errors import ClientError, NotFound
from distrain_k8s.helm import Helm
from distrain_k8s.interrupts import uninterrupted
from distrain_k8s.kube.client import Api
from distrain_k8s.render import Document, Values, render
from distrain_k8s.runs.checks import MADE
from distrain_k8s.runs.find import find_run, list_runs
from distrain_k8s.runs.request import Request, read_request
from distrain_k8s.runs.status import Phase, Run
from distrain_k8s.runs.values import LETTERS
from distrain_k8s.watch.logs import Wanted, read_logs
from distrain_trainer.errors import SettingsError

LIMIT = 900
"""Seconds after which the operator ends the pods, if this machine dies."""
PATIENCE = 600.0
"""Seconds that all of it may take: the image may have to be pulled."""
HELD_UP = 60.0
"""Seconds that something may hold the pods up before they are given up."""
LOOK = 1.0
UNSAID = ("PersistentVolumeClaim", "PodDisruptionBudget")
"""Kinds of the chart that a preflight does without."""
Say = Callable[[str], None]


def network_lines(api: Api, helm: Helm, values: Values, say: Say) -> Iterator[Line]:
    """What the nodes find out, line by line. values: of the chart, as for `submit`; two nodes on the CPU where they ask
    for one. Raises SettingsError where they name no image and no run in the namespace has one."""
    name = f"preflight-{''.join(secrets.choice(LETTERS) for _ in range(5))}"
    documents, request = manifests(helm, name, with_image(api, values))
    yield Line("ok", "preflight", f"{request.nodes} pods of {request.image}, {request.world} processes")
    with made(api, documents, name, say):
        run = wait_for_end(api, name, say)
        found = list(findings(api, name))
    yield from found
    if run.phase is not Phase.SUCCEEDED and not any(line.state == "fail" for line in found):
        cause = run.cause
        sentence = cause.sentence if cause else f"the pods did not end within {PATIENCE:.0f} s ({run.shown_phase})"
        # The mend of a run would have it resumed, and there is none.
        yield Line("fail", "preflight", sentence, "mend that, and type the same again" if cause else "")


def with_image(api: Api, values: Values) -> Values:
    """The values; with the image of the newest run where nothing else is given."""
    if values.files or any("image.repository" in text for text in values.sets):
        return values
    image = next((run.image for run in list_runs(api) if run.image), None)
    if image is None:
        raise SettingsError(
            f"no run in {api.namespace} says which image to use; name it: --set image.repository=REGISTRY/distrain"
        )
    repository, _, tag = image.rpartition(":")
    return Values(values.files, {**values.more, "image": {"repository": repository, "tag": tag}}, values.sets)


def manifests(helm: Helm, name: str, values: Values) -> tuple[list[Document], Request]:
    """What is made: the objects of a run that runs `distrain preflight` instead. Raises SettingsError."""
    request = read_request(render(helm, name, values))
    if request.nodes == 1:
        if request.gpus:
            raise SettingsError(
                f"a network has two ends, and the values ask for one node with {request.gpus} GPUs; set gpus to "
                f"{2 * request.gpus}, or gpusPerNode to {max(request.gpus // 2, 1)}"
            )
        values = Values(values.files, values.more, (*values.sets, "nodes=2"))
    documents = render(helm, name, values)
    request = read_request(documents)
    shared = request.claim is not None and not request.claim.made
    kept = [document for document in documents if document["kind"] not in UNSAID]
    return [preflight_of(document, shared) for document in kept], request


def preflight_of(document: Document, shared: bool) -> Document:
    """An object of a run as one of a preflight: it is no run of `distrain list`, trains nothing, and is not started
    again. shared: whether it has a volume that is there already, and is checked too."""
    changed: Document = _changed(document, shared)
    if document["kind"] == "PyTorchJob":
        policy = changed["spec"]["runPolicy"]
        changed["spec"]["runPolicy"] = {**policy, "cleanPodPolicy": "None", "activeDeadlineSeconds": LIMIT}
        for replica in changed["spec"]["pytorchReplicaSpecs"].values():
            replica["restartPolicy"] = "Never"
    (changed["metadata"].get("annotations") or {}).pop("helm.sh/hook", None)
    return changed


def _changed(value: Any, shared: bool) -> Any:
    if isinstance(value, list):
        return [_changed(item, shared) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _changed(inner, shared) for key, inner in value.items()}
    if changed.get("args") == ["train"]:
        changed["args"] = ["preflight", *(["--volume"] if shared else [])]
    if changed.get("name") == "out" and "persistentVolumeClaim" in changed and not shared:
        del changed["persistentVolumeClaim"]
        changed["emptyDir"] = {}
    if "terminationGracePeriodSeconds" in changed:
        changed["terminationGracePeriodSeconds"] = 2
    if changed.get("app.kubernetes.io/name") == "distrain":
        changed["app.kubernetes.io/name"] = "distrain-preflight"
    return changed


@contextmanager
def made(api: Api, documents: list[Document], name: str, say: Say) -> Iterator[None]:
    """These objects while the block runs. What cannot be removed is named."""
    # A TrainJob is refused before its runtime is there, and pods do not start before their settings are.
    last = [document for document in documents if document["kind"] in ("PyTorchJob", "TrainJob")]
    try:
        for document in [*(d for d in documents if d not in last), *last]:
            api.create(MADE[document["kind"]], document)
        say(f"made {name} in {api.namespace}, which goes when it has measured")
        yield
    finally:
        with uninterrupted(name):
            for document in reversed(documents):
                _remove(api, document, say)


def _remove(api: Api, document: Document, say: Say) -> None:
    kind, name = document["kind"], document["metadata"]["name"]
    try:
        api.delete(MADE[kind], name)
    except NotFound:
        pass
    except ClientError as error:
        say(f"{kind} {name} could not be removed ({error}); kubectl delete {kind.lower()} {name} -n {api.namespace}")


def wait_for_end(api: Api, name: str, say: Say) -> Run:
    """Waits until the pods have ended, or something holds them up for a minute. The run as it was seen last."""
    started, held_since, told = time.monotonic(), None, ""
    while True:
        run = find_run(api, name)
        now = time.monotonic()
        cause = run.cause if run.phase in (Phase.PENDING, Phase.QUEUED) else None
        held_since = (held_since or now) if cause else None
        sentence = f"{name} is {run.shown_phase}" + (f": {cause.sentence}" if cause else "")
        if sentence != told and not run.phase.is_end:
            told = sentence
            say(sentence)
        if run.phase.is_end or (held_since and now - held_since > HELD_UP) or now - started > PATIENCE:
            return run
        time.sleep(LOOK)


def findings(api: Api, name: str) -> Iterator[Line]:
    """What the pods have told, those of node 0 first; what all nodes say alike is said once."""
    seen: dict[tuple[str, str, str], list[str]] = {}
    mends: dict[tuple[str, str, str], str] = {}
    for line in read_logs(api, name, Wanted(), lambda _: None):
        if not line.text.startswith('{"check"'):
            continue
        found = json.loads(line.text)["check"]
        key = (found["state"], found["about"], found["sentence"])
        seen.setdefault(key, []).append(found["node"])
        mends[key] = found["mend"]
    for (state, about, sentence), nodes in seen.items():
        where = "" if about in ("latency", "bandwidth", "versions") else f"{', '.join(nodes)}: "
        yield Line(state, about, f"{where}{sentence}", mends[state, about, sentence])  # type: ignore[arg-type]
