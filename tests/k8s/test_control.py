"""Stop, resume and delete: a run goes on where it was, and no claim is removed unless that is asked for."""

import json
from typing import Any

import pytest
import yaml

from helm_cluster import HelmCluster, distrain, needs_helm

pytestmark = needs_helm
JOBS = "kubeflow.org/v1/pytorchjobs"
TRAINJOBS = "trainer.kubeflow.org/v1alpha1/trainjobs"
WORKLOADS = "kueue.x-k8s.io/v1beta1/workloads"
SMALL = ("--set", "image.repository=registry.local/distrain")


def submitted(capsys: pytest.CaptureFixture[str], *options: str) -> None:
    code, _, err = distrain(capsys, "submit", "--name", "run1", "-y", *SMALL, *options)
    assert code == 0, err


def job(there: HelmCluster, path: str = JOBS) -> dict[str, Any]:
    (found,) = there.objects[path]
    made: dict[str, Any] = found
    return made


def ended(there: HelmCluster, kind: str, path: str = JOBS) -> dict[str, Any]:
    """The job, which has ended."""
    found = job(there, path)
    moment = "2026-01-01T01:00:00Z"
    found["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": moment}]}
    return found


def claims(there: HelmCluster) -> str:
    return json.dumps(there.objects["persistentvolumeclaims"], sort_keys=True)


@pytest.mark.parametrize(("backend", "path"), [("pytorchjob", JOBS), ("trainjob", TRAINJOBS)])
def test_a_run_is_suspended_and_goes_on(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], backend: str, path: str
) -> None:
    _, manifests, _ = distrain(capsys, "render", "--name", "run1", "-n", "team", *SMALL, "--set", f"backend={backend}")
    there.put(path, *(found for found in yaml.safe_load_all(manifests) if found["kind"] in ("PyTorchJob", "TrainJob")))
    code, _, err = distrain(capsys, "stop", "run1", "--wait")
    assert code == 0 and "run1 writes a checkpoint and stops, within 120 s" in err and "run1 is stopped" in err
    spec = job(there, path)["spec"]
    assert (spec if backend == "trainjob" else spec["runPolicy"])["suspend"] is True
    assert "is stopped already" in distrain(capsys, "stop", "run1")[2]
    code, _, err = distrain(capsys, "resume", "run1")
    assert code == 0 and "starts again from its newest checkpoint" in err
    spec = job(there, path)["spec"]
    assert (spec if backend == "trainjob" else spec["runPolicy"])["suspend"] is False


def test_a_run_on_kueue_is_stopped_by_its_workload(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    there.served |= {WORKLOADS, "kueue.x-k8s.io/v1beta1/localqueues"}
    there.put("kueue.x-k8s.io/v1beta1/localqueues", {"metadata": {"name": "team-a"}, "status": {}})
    submitted(capsys, "--set", "kueue.queue=team-a")
    owner = {"uid": job(there)["metadata"]["uid"], "controller": True}
    there.put(WORKLOADS, {"metadata": {"name": "pytorchjob-run1", "ownerReferences": [owner]}, "spec": {}})
    assert distrain(capsys, "stop", "run1")[0] == 0
    (workload,) = there.objects[WORKLOADS]
    assert workload["spec"]["active"] is False and "suspend" not in job(there)["spec"]["runPolicy"]
    assert distrain(capsys, "resume", "run1")[0] == 0
    assert workload["spec"]["active"] is True


def test_a_trainjob_that_has_ended_is_made_without_what_kueue_has_added(
    there: HelmCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    _, manifests, _ = distrain(capsys, "render", "--name", "run1", "-n", "team", *SMALL, "--set", "backend=trainjob")
    there.put(TRAINJOBS, *(found for found in yaml.safe_load_all(manifests) if found["kind"] == "TrainJob"))
    own = list(job(there, TRAINJOBS)["spec"].get("runtimePatches", []))
    ended(there, "Complete", TRAINJOBS)["spec"]["runtimePatches"] = [*own, {"manager": "kueue.x-k8s.io/manager"}]
    code, _, err = distrain(capsys, "resume", "run1")
    assert code == 0, err
    new = job(there, TRAINJOBS)
    assert new["spec"]["runtimePatches"] == own and "status" not in new


@pytest.mark.parametrize("keep", [pytest.param("true", marks=pytest.mark.matrix), "false"])
@pytest.mark.parametrize("end", ["Failed", pytest.param("Succeeded", marks=pytest.mark.matrix)])
def test_a_run_that_has_ended_gets_a_new_job_and_keeps_its_claim(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], keep: str, end: str
) -> None:
    submitted(capsys, "--set", f"persistence.keepClaim={keep}")
    before = claims(there)
    old = ended(there, end)
    code, _, err = distrain(capsys, "resume", "run1")
    assert code == 0, err
    new = job(there)
    assert new["metadata"]["uid"] != old["metadata"]["uid"] and "status" not in new
    assert (new["spec"], new["metadata"]["labels"]) == (old["spec"], old["metadata"]["labels"])
    assert claims(there) == before
    assert not [path for method, path in there.requests if method == "DELETE" and "persistentvolumeclaims" in path]


@pytest.mark.parametrize("keep", ["true", pytest.param("false", marks=pytest.mark.matrix)])
def test_a_run_resumes_with_other_values(there: HelmCluster, capsys: pytest.CaptureFixture[str], keep: str) -> None:
    """The mend of a wrong tag, or more epochs."""
    submitted(capsys, "--set", f"persistence.keepClaim={keep}", "--set", "image.tag=wrong")
    before = claims(there)
    code, _, err = distrain(capsys, "resume", "run1", "-y", "--set", "image.tag=right", "--schedule.epochs", "5")
    assert code == 0, err
    assert "image: registry.local/distrain:wrong -> registry.local/distrain:right" in err
    assert "trainer.schedule.epochs: 3 -> 5" in err and "refuses to resume" not in err
    container = job(there)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.local/distrain:right"
    (settings,) = there.objects["configmaps"]
    assert settings["data"]["DISTRAIN_SCHEDULE__EPOCHS"] == "5"
    assert json.loads(claims(there))[0]["metadata"]["uid"] == json.loads(before)[0]["metadata"]["uid"]


def test_what_a_run_that_has_begun_will_refuse_is_said(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(capsys)
    code, _, err = distrain(capsys, "resume", "run1", "-y", "--seed", "7", "--schedule.epochs", "5")
    assert code == 0 and "a run that has begun refuses to resume with other trainer.seed\n" in err, err


def test_values_of_a_run_that_goes_on_do_not_change(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(capsys)
    status = {"phase": "Running", "containerStatuses": [{"name": "pytorch", "state": {"running": {}}}]}
    labels = {"training.kubeflow.org/job-name": "run1"}
    spec = {"containers": [{"name": "pytorch"}]}
    there.put("pods", {"metadata": {"name": "run1-master-0", "labels": labels}, "spec": spec, "status": status})
    code, _, err = distrain(capsys, "resume", "run1", "-y", "--set", "image.tag=right")
    assert code == 64 and "stop it first: distrain stop run1" in err
    code, _, err = distrain(capsys, "resume", "run1")
    assert code != 0 and "run1 has not ended and is not stopped" in err


def test_a_run_that_lost_its_job_is_made_again(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a connection that broke between the old job and the new one."""
    submitted(capsys)
    ended(there, "Failed")
    there.inject(403, "pytorchjobs", times=1, methods=("POST",), message="not now")
    code, _, err = distrain(capsys, "resume", "run1")
    assert code != 0 and "type distrain resume run1 again" in err and not there.objects[JOBS]
    code, _, err = distrain(capsys, "resume", "run1")
    assert code == 0, err
    assert job(there)["metadata"]["name"] == "run1"


def test_a_deleted_run_leaves_its_checkpoints(there: HelmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(capsys)
    code, _, err = distrain(capsys, "delete", "run1", "-y")
    assert code == 0 and "its claim run1-checkpoint stays" in err
    assert there.everything() == {"persistentvolumeclaims/run1-checkpoint"}
    submitted(capsys)
    assert distrain(capsys, "delete", "run1", "-y", "--checkpoints")[0] == 0
    assert there.everything() == set()


def test_a_claim_that_would_go_with_the_run_needs_consent(
    there: HelmCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(capsys, "--set", "persistence.keepClaim=false")
    before = there.everything()
    code, _, err = distrain(capsys, "delete", "run1", "-y")
    assert code != 0 and "add --checkpoints to agree" in err and there.everything() == before
    assert distrain(capsys, "delete", "run1", "-y", "--checkpoints")[0] == 0
    assert there.everything() == set()


@pytest.mark.parametrize("command", [("stop",), ("resume",), ("delete", "-y"), ("fetch",), ("open",)])
def test_no_such_run(there: HelmCluster, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    code, _, err = distrain(capsys, command[0], "nothing", *command[1:])
    assert code == 102 and "there is no run nothing in the namespace team" in err
