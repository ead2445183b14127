"""What the chart refuses, and what a person is told."""

import shutil
from pathlib import Path

import pytest
import yaml

from rendering import CHART, helm, needs_helm, refusal

pytestmark = needs_helm

REFUSED = [
    # values of a file, what the message must hold
    # Names that do not exist, at any depth
    ("gpu: 8", "additional properties 'gpu' not allowed"),
    ("image: {repo: x}", "at '/image': additional properties 'repo' not allowed"),
    ("persistence: {claim: x}", "at '/persistence': additional properties 'claim' not allowed"),
    ("resources: {limit: {}}", "at '/resources': additional properties 'limit' not allowed"),
    ("dataClaims: [{claimName: a, mountPath: /a, readWrite: true}]", "at '/dataClaims/0': additional properties"),
    ("trainer: {batches: {}}", "at '/trainer': additional properties 'batches' not allowed"),
    ("trainer: {batch: {token: 4096}}", "at '/trainer/batch': additional properties 'token' not allowed"),
    ("tolerations: [{keys: a}]", "at '/tolerations/0': additional properties 'keys' not allowed"),
    ("extraEnvFrom: [{secretRef: {name: a, keys: b}}]", "at '/extraEnvFrom/0/secretRef': additional properties 'keys'"),
    ("schedulingPolicy: {minAvailable: 1}", "at '/schedulingPolicy': additional properties 'minAvailable'"),
    # Names that an earlier version of the chart had
    (
        "checkpoint: {existingClaim: runs}",
        "checkpoint.existingClaim is now called persistence.existingClaim; rename it",
    ),
    ("checkpoint: {size: 10Gi}", "checkpoint.size is now called persistence.size; rename it"),
    (
        "checkpoint: {storageClassName: nfs}",
        "checkpoint.storageClassName is now called persistence.storageClass; rename",
    ),
    (
        "checkpoint: {accessMode: ReadWriteMany}",
        "checkpoint.accessMode is now called persistence.accessMode; rename it",
    ),
    ("checkpoint: {keepClaim: false}", "checkpoint.keepClaim is now called persistence.keepClaim; rename it"),
    (
        "checkpoint: {every_minutes: 5}",
        "checkpoint.every_minutes is not a value of the chart; set trainer.checkpoint for",
    ),
    ("proxy: {none: .svc}", "proxy.none is now called proxy.noProxy; rename it"),
    # What the chart decides by itself
    ("trainer: {output_dir: /x}", "at '/trainer': additional properties 'output_dir' not allowed"),
    ("trainer: {run_id: x}", "at '/trainer': additional properties 'run_id' not allowed"),
    ("trainer: {data: {name: sample, cache: /x}}", "at '/trainer/data': additional properties 'cache' not allowed"),
    # Types and bounds
    ("gpus: many", "at '/gpus': got string, want null or integer"),
    ("gpus: -8", "at '/gpus': minimum: got -8, want 0"),
    ("gpus: 1.5", "at '/gpus': got number, want null or integer"),
    ("gpusPerNode: 0", "at '/gpusPerNode': minimum: got 0, want 1"),
    ("nodes: 0", "at '/nodes': minimum: got 0, want 1"),
    ("gpuResource: gpu", "at '/gpuResource': 'gpu' does not match pattern"),
    ("backend: mpijob", "at '/backend': value must be one of 'pytorchjob', 'trainjob'"),
    (
        "image: {pullPolicy: Sometimes}",
        "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
    ),
    ("image: {digest: latest}", "at '/image/digest': 'latest' does not match pattern"),
    ("resources: {requests: {memory: lots}}", "at '/resources/requests/memory': 'lots' does not match pattern"),
    ("resources: {requests: {memory: 512K}}", "at '/resources/requests/memory': '512K' does not match pattern"),
    ("resources: {limits: {cpu: -1}}", "at '/resources/limits/cpu': minimum: got -1, want 0"),
    ("sharedMemory: 8 GB", "at '/sharedMemory': '8 GB' does not match pattern"),
    ("gracePeriodSeconds: 2", "at '/gracePeriodSeconds': minimum: got 2, want 10"),
    ("persistence: {accessMode: ReadOnlyMany}", "at '/persistence/accessMode': value must be one of 'ReadWriteMany'"),
    ("persistence: {existingClaim: My_Claim}", "at '/persistence/existingClaim': 'My_Claim' does not match pattern"),
    ("dataClaims: [{claimName: corpus}]", "at '/dataClaims/0': missing property 'mountPath'"),
    ("dataClaims: [{claimName: corpus, mountPath: data}]", "at '/dataClaims/0/mountPath': 'data' does not match"),
    ("extraVolumes: [{name: a, mountPath: /a, source: {}}]", "at '/extraVolumes/0/source': minProperties: got 0"),
    ("avoidNodes: node-7", "at '/avoidNodes': got string, want null or array"),
    ("networkPolicy: {enabled: 'no'}", "at '/networkPolicy/enabled': got string, want null or boolean"),
    ("nccl: {DEBUG: INFO}", "does not match pattern '^NCCL_"),
    ("extraEnv: {A-B: x}", "does not match pattern"),
    ("initContainers: [{image: busybox}]", "at '/initContainers/0': missing property 'name'"),
    # Settings of the trainer
    ("trainer: {task: translation}", "at '/trainer/task': value must be one of 'sequence-classification', "),
    ("trainer: {precision: half}", "at '/trainer/precision': value must be one of 'fp32', 'bf16', 'fp16'"),
    ("trainer: {batch: {tokens: many}}", "at '/trainer/batch/tokens': 'many' does not match pattern"),
    ("trainer: {batch: {tokens: '4096.5'}}", "at '/trainer/batch/tokens': '4096.5' does not match pattern"),
    ("trainer: {batch: {tokens: 4}}", "at '/trainer/batch/tokens': minimum: got 4, want 8"),
    ("trainer: {optimizer: {learning_rate: '-1'}}", "at '/trainer/optimizer/learning_rate': '-1' does not match"),
    ("trainer: {optimizer: {betas: [0.9]}}", "at '/trainer/optimizer/betas': minItems: got 1, want 2"),
    ("trainer: {deterministic: 'yes'}", "at '/trainer/deterministic': 'yes' does not match pattern"),
    ("trainer: {quantization: {bits: '5'}}", "at '/trainer/quantization/bits': value must be one of 4, 8, '4', '8'"),
    (
        "trainer: {model: {name: x}}",
        "set trainer.data.name to a dataset on the Hub (or to sample), or trainer.data.files",
    ),
    ("trainer: {data: {max_length: 64}}", "set trainer.data.name"),
    ("trainer: {model: {compile: true}}", "trainer.model or trainer.data is set, but not what to train on"),
    (
        "{gpus: 16, trainer: {strategy: {kind: single}}}",
        "trainer.strategy.kind is single, but the run has 16 processes",
    ),
    (
        "{gpus: 16, trainer: {elastic: {min_nodes: '3'}}}",
        "trainer.elastic.min_nodes is 3, but the run has 2 nodes; lower it",
    ),
    ("trainer: {precision: fp16}", "trainer.precision is fp16, but the run has no GPUs; set gpus, or choose bf16"),
    ("trainer: {hub: {repo: team/model}}", "trainer.hub.repo is set, but there is no token to push with; put one that"),
    # Secrets as plain values
    ("secrets: {HF_TOKEN: hf_abc}", "at '/secrets/HF_TOKEN': got string, want null or object"),
    ("secrets: {HF_TOKEN: {name: a, key: null}}", "at '/secrets/HF_TOKEN/key': got null, want string"),
    ("secrets: {HF_TOKEN: {name: hugging-face}}", "at '/secrets/HF_TOKEN': missing property 'key'"),
    ("secrets: {HF_TOKEN: {name: a, key: b, value: hf_abc}}", "at '/secrets/HF_TOKEN': additional properties 'value'"),
    ("extraEnv: {HF_TOKEN: hf_abc}", "extraEnv.HF_TOKEN would store a secret in plain text; put it into a Secret"),
    ("extraEnv: {WANDB_API_KEY: abc}", "set secrets.WANDB_API_KEY.name and .key"),
    ("extraEnv: {AWS_SECRET_ACCESS_KEY: abc}", "set secrets.AWS_SECRET_ACCESS_KEY.name and .key"),
    ("proxy: {https: 'http://me:word@proxy:3128'}", "set secrets.HTTPS_PROXY.name and .key"),
    ("extraEnv: {ALL_PROXY: 'http://me:word@proxy:3128'}", "extraEnv.ALL_PROXY would store a password in plain text"),
    # Variables that belong elsewhere
    ("extraEnv: {DISTRAIN_SEED: 1}", "extraEnv.DISTRAIN_SEED is a setting of the trainer; set it under trainer"),
    ("extraEnv: {PET_NNODES: 1}", "extraEnv.PET_NNODES is set by the chart or the operator; remove it"),
    ("secrets: {RUN_RDMA: {name: a, key: b}}", "secrets.RUN_RDMA is set by the chart or the operator; remove it"),
    ("extraEnv: {NCCL_DEBUG: INFO}", "extraEnv.NCCL_DEBUG is a variable of NCCL; set it under nccl"),
    ("extraEnv: {HTTPS_PROXY: 'http://proxy'}", "extraEnv.HTTPS_PROXY is what proxy.https sets; use that"),
    ("extraEnv: {http_proxy: 'http://me:word@proxy'}", "extraEnv.http_proxy is what proxy.http sets; use that"),
    (
        "{extraEnv: {A: x}, secrets: {A: {name: a, key: b}}}",
        "A is under extraEnv and under secrets; remove one of them",
    ),
    (
        "{proxy: {https: 'http://proxy'}, secrets: {https_proxy: {name: a, key: b}}}",
        "secrets.https_proxy conflicts with proxy.https, which sets the same variable; remove one of them",
    ),
    (
        "secrets: {HTTP_PROXY: {name: a, key: b}, NO_PROXY: {name: a, key: c}}",
        "secrets.NO_PROXY conflicts with proxy.noProxy",
    ),
    (
        "{caBundle: {configMap: all}, secrets: {SSL_CERT_FILE: {name: a, key: b}}}",
        "secrets.SSL_CERT_FILE conflicts with caBundle.configMap",
    ),
    (
        "{caBundle: {configMap: all}, extraEnv: {SSL_CERT_FILE: /a.crt}}",
        "extraEnv.SSL_CERT_FILE conflicts with caBundle.configMap",
    ),
    ("extraEnvFrom: [{prefix: A_}]", "extraEnvFrom[0] needs exactly one of configMapRef and secretRef"),
    # Claims and mounts
    ("persistence: {enabled: false, existingClaim: a}", "persistence.existingClaim conflicts with persistence.enabled"),
    (
        "{nodes: 2, persistence: {enabled: false}}",
        "persistence.enabled is false, but the run has 2 nodes and all of them",
    ),
    (
        "{gpus: 16, persistence: {accessMode: ReadWriteOnce}}",
        "persistence.accessMode is ReadWriteOnce, but the run has 2 nodes and all of them write; set it to",
    ),
    (
        "persistence: {existingClaim: a, accessMode: ReadWriteMany}",
        "conflicts with persistence.existingClaim; remove one",
    ),
    (
        "persistence: {existingClaim: a, storageClass: nfs}",
        "persistence.storageClass describes a claim that the chart",
    ),
    ("dataClaims: [{claimName: a, mountPath: /out/a}]", "dataClaims[0].mountPath is /out/a, but the claim for results"),
    (
        "dataClaims: [{claimName: a, mountPath: /d}, {claimName: b, mountPath: /d/}]",
        "but dataClaims[0] is mounted at /d",
    ),
    (
        "extraVolumes: [{name: a, mountPath: /dev, source: {emptyDir: {}}}]",
        "is /dev, but a volume of the chart is mounted at",
    ),
    (
        "extraVolumes: [{name: shm, mountPath: /a, source: {emptyDir: {}}}]",
        "name is shm, which is already the name of a volume; choose another",
    ),
    # Values that contradict each other
    (
        "image: {repository: 'team/distrain:v1'}",
        "which ends in a tag or a digest; set image.tag or image.digest to it instead",
    ),
    (
        "image: {repository: Team/Distrain}",
        "but the names of images are lower-case; set it to team/distrain if that is",
    ),
    ("image: {repository: ghcr.io/Team/distrain}", "set it to ghcr.io/team/distrain"),
    (
        "image: {repository: 'https://ghcr.io/team/distrain'}",
        "which is not the name of an image; write it as registry/",
    ),
    ("image: {repository: team//distrain}", "which is not the name of an image"),
    (f"image: {{tag: v1, digest: 'sha256:{'0' * 64}'}}", "image.tag and image.digest are both set; keep one of them"),
    (
        "resources: {limits: {nvidia.com/gpu: 8}}",
        "resources.limits has nvidia.com/gpu, which follows from gpus; remove it",
    ),
    (
        "{gpus: 8, rdma: {enabled: true, resource: rdma/hca}, resources: {limits: {rdma/hca: 4}}}",
        "resources.limits has rdma/hca, which follows from rdma.count; remove it and set rdma.count",
    ),
    (
        "{gpus: 4, gpuResource: nvidia.com/mig-1g.10gb}",
        "each pod would have 4 of nvidia.com/mig-1g.10gb, but a process can use one slice of a GPU only; "
        "set gpusPerNode",
    ),
    ("podLabels: {team: a b}", "at '/podLabels/team': 'a b' does not match pattern"),
    ("podLabels: {app.kubernetes.io/instance: a}", "podLabels has app.kubernetes.io/instance, which the chart or an"),
    ("podLabels: {training.kubeflow.org/job-name: a}", "podLabels has training.kubeflow.org/job-name, which the chart"),
    (
        "rdma: {enabled: true, resource: rdma/hca}",
        "the run has no GPUs to connect; set gpus, or rdma.enabled to false",
    ),
    ("{gpus: 16, rdma: {enabled: true}}", "rdma.enabled is true, but rdma.resource is empty; set it to the resource"),
    ("podSecurity: {runAsUser: 0}", "podSecurity.runAsUser is 0, which is for RDMA only; set it to 1000, or to null"),
    ("kueue: {priorityClass: high}", "kueue.priorityClass is set, but kueue.queue is empty; set it to the name of"),
    (
        "{backend: trainjob, schedulingPolicy: {priorityClass: high}}",
        "has no effect with backend=trainjob; set priorityClassName",
    ),
    (
        "{backend: trainjob, schedulingPolicy: {queue: a}}",
        "needs Volcano with backend=trainjob; set schedulerName to volcano",
    ),
    (
        "{backend: trainjob, schedulerName: volcano, schedulingPolicy: {scheduleTimeoutSeconds: 9}}",
        "schedulingPolicy.scheduleTimeoutSeconds has no effect on Volcano with backend=trainjob; remove it",
    ),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED, ids=[values[:60] for values, _ in REFUSED])
def test_refused_with_a_sentence_that_helps(values: str, sentence: str) -> None:
    assert isinstance(yaml.safe_load(values), dict)
    assert sentence in refusal(values=values)


NAMES = [
    (
        "r" * 51,
        "has 51 characters, but pods are named after it and have room for 50; choose a shorter name",
    ),
    ("7b-run", "the release name 7b-run is not a valid name for a job; start with a letter"),
    (
        "run.1",
        "the release name run.1 is not a valid name for a job; start with a letter and use lower-case letters, digits",
    ),
]


@pytest.mark.parametrize(("name", "sentence"), NAMES)
def test_names_that_a_job_cannot_have_are_refused(name: str, sentence: str) -> None:
    assert sentence in refusal(name=name)


def test_a_trainjobs_pods_have_less_room_for_the_name() -> None:
    assert "room for 45" in refusal("backend=trainjob,gpus=8192", name="r" * 46)


@pytest.mark.parametrize("file", sorted(path.name for path in (CHART / "templates").glob("[!_]*")))
def test_every_template_refuses_values_that_are_refused(file: str, tmp_path: Path) -> None:
    """Helm renders them in no order that can be relied on."""
    chart = shutil.copytree(CHART, tmp_path / "distrain")
    for other in (chart / "templates").glob("[!_]*"):
        if other.name != file:
            other.unlink()
    done = helm("template", "run1", str(chart), "--set", "kueue.priorityClass=high")
    assert "kueue.priorityClass is set, but kueue.queue is empty" in done.stderr
