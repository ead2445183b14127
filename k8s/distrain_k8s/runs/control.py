"""Stops, resumes and deletes runs. No claim is ever removed, but by `delete --checkpoints`."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distrain_k8s.errors import Conflict, HalfMade, HelmError, NotFound
from distrain_k8s.helm import Helm
from distrain_k8s.interrupts import uninterrupted
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import read_pod
from distrain_k8s.kube.resources import CLAIMS, CONFIG_MAPS, RUNTIMES
from distrain_k8s.render import Values, as_values, chart_folder
from distrain_k8s.runs.jobs import (
    Found,
    find_job,
    is_stopped,
    pods_of,
    remove_job,
    replace_job,
    set_suspended,
    wait_until_gone,
)
from distrain_k8s.runs.plan import Plan, plan_run
from distrain_k8s.runs.reader import claim_of, remove_folder
from distrain_k8s.runs.submit import LIMIT
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import MAY_CHANGE

Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """A value of a run that a resume would change. before, after: None where it is not set."""

    name: str
    before: str | None
    after: str | None

    @property
    def is_fixed(self) -> bool:
        """Whether a run that has begun may not change it."""
        section, _, name = self.name.partition(".")
        return section == "trainer" and name not in MAY_CHANGE


def stop(api: Api, name: str, wait: bool, say: Say) -> None:
    """Asks a run to write a checkpoint and end. wait: until its pods have. Raises NotFound, and Conflict where it has
    ended."""
    found = find_job(api, name)
    if found.ended:
        raise Conflict(f"{name} has ended already ({found.ended}); `distrain status {name}` says how")
    if not is_stopped(api, found):
        set_suspended(api, found, True)
        say(f"{name} writes a checkpoint and stops, within {found.grace} s; `distrain resume {name}` continues it")
    elif not wait:
        say(f"{name} is stopped already; `distrain resume {name}` continues it")
    if wait:
        wait_until_gone(api, name, found.grace + 60, say)
        say(f"{name} is stopped")


def resume(api: Api, helm: Callable[[], Helm], name: str, say: Say) -> None:
    """Continues a run as it was submitted: one that was stopped, or that has ended, or whose job is gone.

    helm: gives Helm where it is needed. Raises NotFound, and Conflict where the run is not stopped.
    """
    try:
        found = find_job(api, name)
    except NotFound as missing:
        remake(api, helm(), name, missing, say)
        return
    if found.ended:
        with uninterrupted(name):
            replace_job(api, found, say)
        end = (
            " It had finished: unless its settings change (--set), it ends at once." if found.ended != "Failed" else ""
        )
        say(f"{name} starts again from its newest checkpoint.{end}")
    elif is_stopped(api, found):
        set_suspended(api, found, False)
        say(f"{name} starts again from its newest checkpoint")
    else:
        raise Conflict(f"{name} has not ended and is not stopped; `distrain status {name}` says what it does")


def remake(api: Api, helm: Helm, name: str, missing: NotFound, say: Say) -> None:
    """Makes the job of a release again that has lost it. Raises `missing` where there is no such release."""
    try:
        plan = plan_change(helm, name, (), {})
    except NotFound:
        raise missing from None
    apply_change(api, helm, plan, None, say)


def plan_change(helm: Helm, name: str, sets: tuple[str, ...], settings: Mapping[str, Any]) -> Plan:
    """A run as it was submitted, with other values. Raises NotFound where there is no Helm release of that name."""
    try:
        given = json.loads(helm.run("get", "values", name, "-o", "json")) or {}
    except HelmError as error:
        if "not found" in error.stderr:
            raise NotFound(
                f"{name} was not submitted by distrain or Helm, so its values cannot change", "run", name
            ) from None
        raise
    return plan_run(helm, name, Values(more=given, sets=sets).with_settings(settings))


def changeable(api: Api, name: str) -> Found:
    """The job of a run whose values may change: it has ended, is stopped, or none of its pods could start.

    Raises SettingsError where it trains.
    """
    found = find_job(api, name)
    if found.ended or is_stopped(api, found):
        return found
    if any(read_pod(pod).is_running for pod in pods_of(api, name)):
        raise SettingsError(f"{name} has not ended, so its values cannot change; stop it first: distrain stop {name}")
    return found


def changes(api: Api, plan: Plan) -> list[Change]:
    """What of the trainer's settings a resume would change, and the image."""
    new = next(document["data"] for document in plan.documents if document["kind"] == "ConfigMap")
    try:
        old = api.get(CONFIG_MAPS, f"{plan.name}-settings").get("data") or {}
    except NotFound:
        old = {}
    found = [
        Change(as_values(name), old.get(name), new.get(name))
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name) and name != "RUN_SETTINGS_HASH"
    ]
    try:
        image = find_job(api, plan.name).job.image
    except NotFound:
        image = ""
    if image and image != plan.request.image:
        found.insert(0, Change("image", image, plan.request.image))
    return found


def refuse_other_claim(api: Api, plan: Plan) -> None:
    """Raises SettingsError where the run would write to another claim, and not find its checkpoints."""
    claim = plan.request.claim
    own = f"{plan.name}-checkpoint"
    if claim is not None and claim.name == own:
        return
    try:
        api.get(CLAIMS, own)
    except NotFound:
        return
    raise SettingsError(
        f"{plan.name} has its checkpoints on the claim {own}, and would write elsewhere; remove what changes "
        "persistence, or submit another run"
    )


def apply_change(api: Api, helm: Helm, plan: Plan, found: Found | None, say: Say) -> None:
    """Replaces the job by one with other values. Raises HalfMade where the old one is gone and no new one there."""
    refuse_other_claim(api, plan)
    name = plan.name
    with uninterrupted(name):
        if found is not None:
            remove_job(api, found, say)
        with suppress(NotFound):
            api.delete(CONFIG_MAPS, f"{name}-settings")  # it is immutable
        try:
            for document in plan.documents:
                hook = (document["metadata"].get("annotations") or {}).get("helm.sh/hook")
                if document["kind"] == "TrainingRuntime" and hook == "pre-install":
                    api.apply(RUNTIMES, document)
            flags = ("--disable-openapi-validation", *plan.values.arguments())
            helm.run("upgrade", name, str(chart_folder()), *flags, stdin=json.dumps(plan.values.more), limit=LIMIT)
        except Exception as error:
            raise HalfMade(
                f"the job {name} was removed and could not be made again ({error}); its checkpoints are kept: type the "
                "same command again, or distrain resume without changes"
            ) from None
    say(f"{name} starts again from its newest checkpoint")


def delete(api: Api, helm: Callable[[], Helm], name: str, checkpoints: bool, say: Say) -> None:
    """Removes a run. checkpoints: also its claim, or its folder where others share the claim.

    Raises NotFound, and Conflict where checkpoints would be lost and nobody has agreed to that.
    """
    try:
        found: Found | None = find_job(api, name)
    except NotFound as missing:
        found = None
        if not leftovers(api, helm(), name):
            raise missing
    own = _claim(api, f"{name}-checkpoint")
    if own and goes_with_the_release(own) and not checkpoints:
        raise Conflict(
            f"{name} was submitted with persistence.keepClaim=false, so its claim goes with it, and all checkpoints "
            "and results; add --checkpoints to agree, or fetch them first: distrain fetch " + name
        )
    shared = claim_of(found.raw) if found and checkpoints and not own else None
    with uninterrupted(name):
        if shared and found:
            set_suspended(api, found, True)
            wait_until_gone(api, name, found.grace + 60, say)
            remove_folder(api, found.raw, name, say)
        if found is None or found.job.is_helm:
            helm().run("uninstall", name, "--ignore-not-found", limit=LIMIT)
        else:
            api.delete(found.resource, name)
        if own and checkpoints:
            with suppress(NotFound):
                api.delete(CLAIMS, f"{name}-checkpoint")
    kept = (
        "" if checkpoints or not own else f"; its claim {name}-checkpoint stays, and a run of this name resumes from it"
    )
    say(f"{name} is deleted{kept}")


def leftovers(api: Api, helm: Helm, name: str) -> bool:
    """Whether Helm knows a release of that name, or a claim of one is left."""
    try:
        helm.run("status", name)
    except HelmError as error:
        if "not found" not in error.stderr:
            raise
        return bool(_claim(api, f"{name}-checkpoint"))
    return True


def _claim(api: Api, name: str) -> dict[str, Any] | None:
    try:
        return api.get(CLAIMS, name)
    except NotFound:
        return None


def goes_with_the_release(claim: Mapping[str, Any]) -> bool:
    """Whether Helm removes a claim with its release."""
    metadata = claim["metadata"]
    owned = (metadata.get("labels") or {}).get("app.kubernetes.io/managed-by") == "Helm"
    return owned and (metadata.get("annotations") or {}).get("helm.sh/resource-policy") != "keep"
