"""What the rendered objects say: each value reaches the pod, and what nobody set is safe."""

from collections.abc import Iterator
from typing import Any

import pytest

from rendering import (
    Values,
    container,
    document,
    documents,
    environment,
    needs_helm,
    pod,
    replicas,
    variables,
    volumes,
)

pytestmark = needs_helm

ROOT_FOLDERS = {"out": "/out", "cache": "/cache", "tmp": "/tmp", "shm": "/dev/shm"}


def test_a_run_is_five_objects() -> None:
    assert [found["kind"] for found in documents()] == [
        "NetworkPolicy",
        "ConfigMap",
        "PersistentVolumeClaim",
        "PyTorchJob",
    ]
    for found in documents("podDisruptionBudget.enabled=true"):
        assert found["metadata"]["namespace"] == "team"
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "run1"


def test_names_that_yaml_takes_for_something_else_stay_names() -> None:
    def texts(value: Any) -> Iterator[Any]:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(inner)
        if isinstance(value, dict):
            yield from (value[field] for field in ("name", "claimName", "key", "value") if field in value)

    values = """
    persistence: {existingClaim: "1e5"}
    cache: {existingClaim: "on"}
    secrets: {"NO": {name: "null", key: "0x1"}}
    extraEnv: {"Y": "010", "OFF": "~"}
    imagePullSecrets: ["123"]
    kueue: {queue: "1000"}
    """
    found = documents(values=values, name="on")
    assert found[0]["metadata"]["name"] == "on"
    assert found[0]["metadata"]["labels"]["app.kubernetes.io/instance"] == "on"
    assert found[-1]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "1000"
    assert all(isinstance(text, str) for one in found for text in texts(one))
    assert environment(container(values=values))["Y"] == "010"
    assert volumes(sharedMemory=1073741824)["shm"]["emptyDir"]["sizeLimit"] == "1073741824"


def test_the_job_leaves_restarts_and_ends_to_the_trainer() -> None:
    job = document("PyTorchJob", "gpus=16")["spec"]
    assert job["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert "elasticPolicy" not in job
    for spec in job["pytorchReplicaSpecs"].values():
        assert spec["restartPolicy"] == "ExitCode"
        assert "restartPolicy" not in spec["template"]["spec"]


def test_master_and_workers_are_alike() -> None:
    specs = replicas("gpus=16")
    assert specs["Master"]["template"] == specs["Worker"]["template"]


def test_the_container_trains_and_has_no_probes() -> None:
    trainer = container()
    assert trainer["name"] == "pytorch"
    assert trainer["args"] == ["train"]
    assert "command" not in trainer
    assert not [field for field in trainer if field.endswith("Probe")]
    assert trainer["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_pods_keep_to_the_restricted_pod_security_standard() -> None:
    spec = pod("gpus=16")["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (1000, 1000, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for trainer in spec["containers"]:
        assert trainer["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert {kind for volume in spec["volumes"] for kind in volume} - {"name"} <= {"emptyDir", "persistentVolumeClaim"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_pods_hold_no_token_of_the_cluster() -> None:
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "serviceAccountName" not in spec


def test_ids_can_be_left_to_the_cluster() -> None:
    security = pod(values={"podSecurity": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})["spec"][
        "securityContext"
    ]
    assert security["runAsNonRoot"] is True
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)


def test_large_ids_keep_their_digits() -> None:
    security = pod(values="podSecurity: {runAsUser: 1000680000, supplementalGroups: [1000680001]}")["spec"][
        "securityContext"
    ]
    assert security["runAsUser"] == 1000680000
    assert security["supplementalGroups"] == [1000680001]


def test_writable_folders_are_volumes() -> None:
    assert {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]} == ROOT_FOLDERS
    found = volumes()
    assert found["out"] == {"persistentVolumeClaim": {"claimName": "run1-checkpoint"}}
    assert found["cache"] == {"emptyDir": {}}
    assert found["tmp"] == {"emptyDir": {}}
    assert found["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}


def test_shared_memory_and_cache_have_limits() -> None:
    found = volumes(sharedMemory="64Gi", cache={"sizeLimit": "100Gi"})
    assert found["shm"]["emptyDir"]["sizeLimit"] == "64Gi"
    assert found["cache"] == {"emptyDir": {"sizeLimit": "100Gi"}}


def test_claims_that_exist_are_mounted() -> None:
    found = volumes(
        persistence={"existingClaim": "runs"},
        cache={"existingClaim": "models"},
        dataClaims=[{"claimName": "corpus", "mountPath": "/data/corpus"}],
    )
    assert found["out"] == {"persistentVolumeClaim": {"claimName": "runs"}}
    assert found["cache"] == {"persistentVolumeClaim": {"claimName": "models"}}
    assert found["data-0"] == {"persistentVolumeClaim": {"claimName": "corpus", "readOnly": True}}
    mounts = container(values={"dataClaims": [{"claimName": "corpus", "mountPath": "/data/corpus"}]})["volumeMounts"]
    assert {"name": "data-0", "mountPath": "/data/corpus", "readOnly": True} in mounts
    assert not any("subPath" in mount for mount in mounts)


def test_an_existing_claim_is_not_made_and_the_run_has_its_own_folder_in_it() -> None:
    values = {"persistence": {"existingClaim": "runs"}}
    assert "PersistentVolumeClaim" not in {found["kind"] for found in documents(values=values)}
    assert document("ConfigMap", values=values)["data"]["DISTRAIN_OUTPUT_DIR"] == "/out/run1"


def test_without_persistence_results_go_with_the_pod() -> None:
    values = {"persistence": {"enabled": False}}
    assert "PersistentVolumeClaim" not in {found["kind"] for found in documents(values=values)}
    assert volumes(**values)["out"] == {"emptyDir": {}}


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ("gpus=8", "ReadWriteOnce"),
        ("gpus=16", "ReadWriteMany"),
        ("gpus=0,nodes=2", "ReadWriteMany"),
        ("gpus=8,persistence.accessMode=ReadWriteOncePod", "ReadWriteOncePod"),
    ],
)
def test_the_claim_can_be_written_by_all_nodes(settings: str, mode: str) -> None:
    assert document("PersistentVolumeClaim", settings)["spec"]["accessModes"] == [mode]


def test_the_claim_outlives_the_release_unless_told_otherwise() -> None:
    kept = document("PersistentVolumeClaim")["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in document("PersistentVolumeClaim", "persistence.keepClaim=false")["metadata"]


def test_a_storage_class_may_be_named_and_may_be_none() -> None:
    assert "storageClassName" not in document("PersistentVolumeClaim")["spec"]
    assert "storageClassName" not in document("PersistentVolumeClaim", "persistence.storageClass=")["spec"]
    assert document("PersistentVolumeClaim", "persistence.storageClass=nfs")["spec"]["storageClassName"] == "nfs"
    assert document("PersistentVolumeClaim", "persistence.storageClass=-")["spec"]["storageClassName"] == ""


def test_the_grace_period_reaches_pod_and_trainer() -> None:
    assert pod("gracePeriodSeconds=300")["spec"]["terminationGracePeriodSeconds"] == 300
    assert environment(container("gracePeriodSeconds=300"))["RUN_GRACE_SECONDS"] == "300"


def test_the_run_knows_its_hash() -> None:
    told = environment(container())
    assert told["RUN_SETTINGS_HASH"] == document("ConfigMap")["data"]["RUN_SETTINGS_HASH"]
    assert len(told["RUN_SETTINGS_HASH"]) == 64


def test_whatever_changes_the_job_changes_the_hash() -> None:
    def hash_of(*settings: str) -> str:
        return str(document("ConfigMap", *settings)["data"]["RUN_SETTINGS_HASH"])

    changes = ["gpus=8", "image.tag=v2", "trainer.seed=7", "resources.limits.memory=8Gi", "avoidNodes={node-7}"]
    assert len({hash_of(), *(hash_of(change) for change in changes)}) == len(changes) + 1
    assert hash_of("networkPolicy.enabled=false") == hash_of("podDisruptionBudget.enabled=true") == hash_of()


def test_settings_are_written_into_the_pod_and_nothing_overrides_them() -> None:
    found = container("trainer.seed=7", values={"extraEnvFrom": [{"secretRef": {"name": "team", "optional": True}}]})
    assert environment(found)["DISTRAIN_SEED"] == "7"
    assert found["envFrom"] == [{"secretRef": {"name": "team", "optional": True}}]  # what stands in env wins over it
    assert "envFrom" not in container()  # a kubelet may serve an earlier run's copy of an immutable map


def test_a_setting_with_a_dollar_reaches_the_trainer_as_it_was_written() -> None:
    told = environment(container("trainer.data.files={/data/a.csv}", "trainer.data.text_column=$(HOME)"))[
        "DISTRAIN_DATA__TEXT_COLUMN"
    ]
    assert told == "$$(HOME)"  # which Kubernetes reads as $(HOME), without expanding it


def test_an_immutable_map_guards_the_settings() -> None:
    settings = document("ConfigMap", "trainer.seed=7")
    assert settings["metadata"]["name"] == "run1-settings"
    assert settings["immutable"] is True
    assert settings["data"] == variables("trainer.seed=7") | {
        "RUN_SETTINGS_HASH": settings["data"]["RUN_SETTINGS_HASH"]
    }


def test_extra_volumes_come_with_their_mounts() -> None:
    extra = {"name": "scratch", "mountPath": "/scratch", "source": {"emptyDir": {"medium": "Memory"}}}
    assert volumes(extraVolumes=[extra])["scratch"] == {"emptyDir": {"medium": "Memory"}}
    mounts = container(values={"extraVolumes": [extra]})["volumeMounts"]
    assert {"name": "scratch", "mountPath": "/scratch", "readOnly": False} in mounts


def test_init_containers_are_restricted_unless_they_say_otherwise() -> None:
    given = [
        {"name": "fetch", "image": "curl"},
        {"name": "own", "image": "curl", "securityContext": {"readOnlyRootFilesystem": False}},
    ]
    fetch, own = pod(values={"initContainers": given})["spec"]["initContainers"]
    assert fetch["securityContext"] == container()["securityContext"]
    assert own == given[1]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "distrain:0.1.0"),
        ({"repository": "host:5000/team/distrain"}, "host:5000/team/distrain:0.1.0"),
        ({"repository": "localhost/a.b__c--d/distrain"}, "localhost/a.b__c--d/distrain:0.1.0"),
        ({"repository": "team/distrain", "tag": "v2"}, "team/distrain:v2"),
        ({"repository": "team/distrain", "digest": "sha256:" + "0" * 64}, "team/distrain@sha256:" + "0" * 64),
    ],
)
def test_the_image_is_the_one_that_was_named(image: Values, name: str) -> None:
    assert container(values={"image": image})["image"] == name


def test_pods_leave_a_lost_node_after_a_minute_and_tolerate_what_was_said() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    not_ready, unreachable, given = pod(values={"tolerations": [taint]})["spec"]["tolerations"]
    assert not_ready["key"] == "node.kubernetes.io/not-ready"
    assert unreachable["key"] == "node.kubernetes.io/unreachable"
    assert not_ready["tolerationSeconds"] == unreachable["tolerationSeconds"] == 60
    assert given == taint


def test_pods_prefer_to_spread_over_nodes() -> None:
    (constraint,) = pod("gpus=16")["spec"]["topologySpreadConstraints"]
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["labelSelector"]["matchLabels"].items() <= pod("gpus=16")["metadata"]["labels"].items()


def test_avoided_nodes_are_avoided_under_each_alternative() -> None:
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in ("a", "b")]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}}
    values = {"affinity": {"nodeAffinity": required}, "avoidNodes": ["node-7", "node-9"]}
    affinity = pod(values=values)["spec"]["affinity"]
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in ("node-7", "node-9")]
    assert affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        zone | {"matchFields": fields} for zone in zones
    ]
    alone = pod(values={"avoidNodes": ["node-7"]})["spec"]["affinity"]["nodeAffinity"]
    assert alone["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [{"matchFields": fields[:1]}]
    assert "affinity" not in pod()["spec"]


def test_names_of_the_cluster_reach_the_pod() -> None:
    names = {
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
        "serviceAccountName": "s",
    }
    spec = pod(values=names | {"nodeSelector": {"gpu": "h100"}, "imagePullSecrets": ["registry"]})["spec"]
    assert names.items() <= spec.items()
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_sidecars_and_autoscalers_are_kept_off() -> None:
    assert pod()["metadata"]["annotations"] == {
        "sidecar.istio.io/inject": "false",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    values = {"podAnnotations": {"sidecar.istio.io/inject": None, "team": "nlp"}}
    annotations = pod(values=values)["metadata"]["annotations"]
    assert "sidecar.istio.io/inject" not in annotations
    assert annotations["team"] == "nlp"


def test_labels_stand_beside_those_that_find_the_pods() -> None:
    own = {"cost-centre": "nlp", "app.kubernetes.io/part-of": "search"}
    assert pod(values={"podLabels": own})["metadata"]["labels"] == pod()["metadata"]["labels"] | own


def test_a_group_is_a_label_of_the_job_and_does_not_change_the_run() -> None:
    grouped, alone = document("PyTorchJob", "group=sweep1"), document("PyTorchJob")
    assert grouped["metadata"]["labels"].pop("app.kubernetes.io/part-of") == "sweep1"
    assert grouped == alone


def test_kueue_finds_its_labels() -> None:
    labels = document("PyTorchJob", "kueue.queue=team-a", "kueue.priorityClass=high")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert not [label for label in document("PyTorchJob")["metadata"]["labels"] if "kueue" in label]


def test_a_gang_has_its_policy() -> None:
    values = {"schedulingPolicy": {"queue": "q", "priorityClass": "high", "scheduleTimeoutSeconds": 600}}
    policy = document("PyTorchJob", values=values)["spec"]["runPolicy"]["schedulingPolicy"]
    assert policy == {"queue": "q", "priorityClass": "high", "scheduleTimeoutSeconds": 600}


def test_only_pods_of_the_run_are_admitted() -> None:
    policy = document("NetworkPolicy")["spec"]
    own = {"matchLabels": pod()["metadata"]["labels"]}
    assert policy["podSelector"] == own
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": own}]}]
    assert "NetworkPolicy" not in {found["kind"] for found in documents("networkPolicy.enabled=false")}


def test_metrics_open_their_port_alone() -> None:
    trainer = container("metrics.enabled=true")
    assert trainer["ports"] == [{"name": "metrics", "containerPort": 9400}]
    assert environment(trainer)["RUN_METRICS_PORT"] == "9400"
    assert document("NetworkPolicy", "metrics.enabled=true")["spec"]["ingress"][1] == {"ports": [{"port": "metrics"}]}
    assert "ports" not in container()


def test_a_disruption_budget_covers_the_whole_run() -> None:
    budget = document("PodDisruptionBudget", "podDisruptionBudget.enabled=true", "gpus=16")["spec"]
    assert budget == {"minAvailable": 2, "selector": {"matchLabels": pod("gpus=16")["metadata"]["labels"]}}


def test_rdma_adds_its_device_and_capability() -> None:
    values = {
        "gpus": 16,
        "rdma": {"enabled": True, "resource": "rdma/hca", "count": 8, "annotations": {"network": "ib"}},
    }
    trainer = container(values=values)
    assert trainer["resources"]["limits"] == {"nvidia.com/gpu": 8, "rdma/hca": 8}
    assert trainer["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert pod(values=values)["metadata"]["annotations"]["network"] == "ib"
    assert pod(values=values)["spec"]["securityContext"]["runAsNonRoot"] is True
    as_root = pod(values=values | {"podSecurity": {"runAsUser": 0}})["spec"]["securityContext"]
    assert (as_root["runAsNonRoot"], as_root["runAsUser"]) == (False, 0)


def test_the_hosts_network_keeps_the_clusters_names() -> None:
    spec = pod("hostNetwork=true")["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
