"""Submits runs: plans them, asks the cluster and the person, and makes them whole or not at all."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from distrain_k8s.errors import ClientError, HalfMade, HelmError, NotFound, Rejected
from distrain_k8s.helm import Helm
from distrain_k8s.interrupts import uninterrupted
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.resources import CLAIMS
from distrain_k8s.render import Values, chart_folder
from distrain_k8s.runs.checks import JOBS, MADE, refuse_existing
from distrain_k8s.runs.plan import Plan, ask_cluster, plan_run
from distrain_k8s.runs.values import run_name, shown_point, sweep_points
from distrain_trainer.errors import SettingsError

LIMIT = 180
"""Seconds that Helm may take to make a run or to remove it."""


def plan_runs(
    helm: Helm, name: str, values: Values, sweeps: Sequence[str] = (), group: str | None = None
) -> list[Plan]:
    """The run, or every point of a sweep as a run of a group, checked on this machine. Raises SettingsError."""
    if not sweeps:
        return [plan_run(helm, name, grouped(values, group))]
    points = sweep_points(sweeps)
    values, digits = grouped(values, group or name), len(str(len(points)))
    plans = [
        plan_run(helm, f"{name}-{number:0{digits}}", values.with_settings(point), shown_point(point))
        for number, point in enumerate(points, 1)
    ]
    if len({plan.request.settings.model_dump_json(exclude={"run_id", "output_dir"}) for plan in plans}) < len(plans):
        raise SettingsError("points of the sweep are the same run; remove what --set overrides from --sweep")
    return plans


def grouped(values: Values, group: str | None) -> Values:
    """The values with the chart's `group`."""
    return Values(values.files, {**values.more, "group": group}, values.sets) if group else values


def ask(api: Api, helm: Helm, plans: list[Plan]) -> list[Plan]:
    """What the cluster says: all of it of the first, and of the others whether they exist already.

    Raises Conflict, and Rejected where the cluster would refuse the run.
    """
    asked = [ask_cluster(api, helm, plans[0]), *plans[1:]]
    for plan in plans[1:]:
        refuse_existing(api, plan.request)
    if refused := asked[0].refused:
        raise Rejected("; ".join(refused))
    return asked


def submit(api: Api, helm: Helm, plan: Plan) -> None:
    """Makes the run. If that fails, what was made of it is removed again.

    Raises HelmError where nothing is left of it, and HalfMade where something is. Ctrl-C is heard when it is made.
    """
    claim = plan.request.claim
    had_claim = claim is not None and claim.made and _is_there(api, "PersistentVolumeClaim", claim.name)
    with uninterrupted(plan.name):
        try:
            helm.run(
                "install",
                plan.name,
                str(chart_folder()),
                "--disable-openapi-validation",  # the API server has checked each object already
                *plan.values.arguments(),
                stdin=json.dumps(plan.values.more),
                limit=LIMIT,
            )
        except HelmError as error:
            if "cannot re-use a name" in error.stderr or "cannot reuse a name" in error.stderr:
                raise HelmError(
                    f"there is a Helm release {plan.name} in {api.namespace} already; `distrain delete {plan.name}` "
                    "removes it, and --name gives this run another name"
                ) from None
            _undo(api, helm, plan, keep_claim=had_claim, why=str(error))
            raise HelmError(
                f"{plan.name} was not submitted, and nothing is left of it: {error}", error.stderr
            ) from None


def _undo(api: Api, helm: Helm, plan: Plan, keep_claim: bool, why: str) -> None:
    """Removes what was made of a run. Raises HalfMade where that fails too."""
    try:
        helm.run("uninstall", plan.name, "--ignore-not-found", limit=LIMIT)
        if plan.request.claim and plan.request.claim.made and not keep_claim:
            with suppress(NotFound):
                api.delete(CLAIMS, plan.request.claim.name)  # made a moment ago, and no pod has written to it
    except ClientError:
        left = what_is_there(api, plan)
        raise HalfMade(half_made(plan, api.namespace, why, left), left or ()) from None


def half_made(plan: Plan, namespace: str, why: str, left: tuple[str, ...] | None) -> str:
    """What is left of a run, and how to remove it. left: None where the cluster cannot be asked."""
    if left is None:
        names = ", ".join(f"{d['kind'].lower()}/{d['metadata']['name']}" for d in plan.documents)
        what = f"the cluster does not answer; any of these may be there: {names}"
    else:
        what = f"these are there: {', '.join(left)}" if left else "no object of it is there, but perhaps Helm's record"
    claim = plan.request.claim
    extra = " --checkpoints" if claim and claim.made else ""
    return (
        f"{plan.name} is half made ({why}); {what}; remove it with: distrain delete {plan.name} -n {namespace}{extra}"
    )


def what_is_there(api: Api, plan: Plan) -> tuple[str, ...] | None:
    """The objects of a run that exist, as `kind/name`; None where the cluster cannot be asked."""
    found = []
    for document in plan.documents:
        kind, name = document["kind"], document["metadata"]["name"]
        try:
            if _is_there(api, kind, name):
                found.append(f"{kind.lower()}/{name}")
        except ClientError:
            return None
    return tuple(dict.fromkeys(found))


def _is_there(api: Api, kind: str, name: str) -> bool:
    try:
        api.get(MADE[kind], name)
    except NotFound:
        return False
    return True


def confirm(question: str) -> bool:
    """Whether the person says yes. Raises SettingsError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise SettingsError("there is no terminal to ask on; add -y to go ahead without being asked, or --dry-run")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def default_name(file: str | None, name: str | None) -> str:
    """The name that was given, or a new one."""
    return name or run_name(file)


def submitted(plan: Plan, namespace: str) -> Mapping[str, Any]:
    """What a program is told of a run that was submitted."""
    return {"name": plan.name, "namespace": namespace, "kind": JOBS[plan.request.kind].kind}
