"""backend=trainjob: a TrainJob of Kubeflow Trainer v2 and the runtime that it refers to."""

from typing import Any

from rendering import document, documents, needs_helm, pod

pytestmark = needs_helm


def runtime(*settings: str) -> Any:
    return document("TrainingRuntime", "backend=trainjob", *settings)["spec"]


def node(*settings: str) -> Any:
    (job,) = runtime(*settings)["template"]["spec"]["replicatedJobs"]
    return job


def test_the_runtime_is_there_before_the_job_and_goes_with_the_release() -> None:
    found = documents("backend=trainjob", "gpus=16")
    assert "PyTorchJob" not in {one["kind"] for one in found}
    first, last = (one for one in found if one["kind"] == "TrainingRuntime")
    assert first["spec"] == last["spec"]
    assert first["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }
    assert last["metadata"]["annotations"] == {
        "helm.sh/hook": "post-delete",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    reference = document("TrainJob", "backend=trainjob", "gpus=16")["spec"]["runtimeRef"]
    assert reference == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": first["metadata"]["name"],
    }


def test_exit_codes_mean_what_they_mean_to_the_v1_operator() -> None:
    spec = node()["template"]["spec"]
    stop, ignore = spec["podFailurePolicy"]["rules"]
    assert stop["action"] == "FailJob"
    assert stop["onExitCodes"] == {"containerName": "node", "operator": "In", "values": list(range(1, 128))}
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert spec["backoffLimit"] > 10**9
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_success_needs_every_node() -> None:
    assert node("gpus=16")["template"]["spec"]["completionMode"] == "Indexed"
    assert runtime("gpus=16")["template"]["spec"]["successPolicy"] == {"operator": "All"}


def test_the_node_is_found_by_its_labels_and_name() -> None:
    job = node()
    assert job["name"] == "node"
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}


def test_the_pod_is_the_one_of_the_other_backend() -> None:
    theirs, ours = pod("gpus=16"), node("gpus=16")["template"]["spec"]["template"]
    ours["spec"].pop("restartPolicy")
    for spec, name in ((theirs["spec"], "pytorch"), (ours["spec"], "node")):
        (trainer,) = spec["containers"]
        assert trainer.pop("name") == name
        trainer["env"] = [one for one in trainer["env"] if one["name"] != "RUN_SETTINGS_HASH"]
    assert ours == theirs


def test_the_queue_and_the_gang_reach_their_schedulers() -> None:
    job = document("TrainJob", "backend=trainjob", "kueue.queue=team-a")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    volcano = runtime("schedulerName=volcano", "schedulingPolicy.queue=q")
    assert volcano["podGroupPolicy"] == {"volcano": {}}
    assert volcano["template"]["metadata"]["annotations"] == {"scheduling.volcano.sh/queue-name": "q"}
    plugins = runtime("schedulingPolicy.scheduleTimeoutSeconds=120")
    assert plugins["podGroupPolicy"] == {"coscheduling": {"scheduleTimeoutSeconds": 120}}
    assert "podGroupPolicy" not in runtime()
