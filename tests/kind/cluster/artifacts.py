"""What is kept of a failed test: nodes, pods, events, logs, the operator's log and the disks."""

from pathlib import Path

from cluster import engine, nodes, operator, storage
from cluster.kubectl import JOBS, KUBECONFIG
from cluster.shell import BIN, Failure, run


def keep(folder: Path, namespace: str) -> None:
    """Writes what can be had; keeping a failure must not hide it behind another."""
    folder.mkdir(parents=True, exist_ok=True)
    here = ("-n", namespace)
    kubectl = (BIN / "kubectl", f"--kubeconfig={KUBECONFIG}")
    commands: dict[str, tuple[str | Path, ...]] = {
        "nodes.txt": (*kubectl, "get", "nodes", "-o", "wide"),
        "nodes-described.txt": (*kubectl, "describe", "nodes"),
        "pods.txt": (*kubectl, "get", "pods", "-A", "-o", "wide"),
        "pods-described.txt": (*kubectl, "describe", "pods", *here),
        "events.txt": (*kubectl, "get", "events", *here, "--sort-by=.metadata.creationTimestamp"),
        "objects.yaml": (*kubectl, "get", "all,configmaps,pvc,networkpolicies", *here, "-o", "yaml"),
        "volumes.txt": (*kubectl, "get", "pv,storageclass", "-o", "wide"),
        "operator.log": (*kubectl, "logs", "-n", operator.NAMESPACE, f"deployment/{operator.NAME}", "--tail=5000"),
        "disk.txt": ("df", "-h", storage.FOLDER),
        "files.txt": ("find", storage.FOLDER / namespace, "-ls"),
    }
    for kind in JOBS:
        commands[f"{kind}.yaml"] = (*kubectl, "get", kind, *here, "-o", "yaml")
    if found := engine.find():
        for node in nodes.NODES:
            commands[f"{node}.kubelet.log"] = (found, "exec", node, "journalctl", "-u", "kubelet", "-n", "500")
    for pod in pods(*kubectl, *here):
        logs = (*kubectl, "logs", *here, pod, "--all-containers", "--prefix", "--timestamps")
        commands[f"{pod}.log"] = logs
        commands[f"{pod}.previous.log"] = (*logs, "--previous")
    for file, command in commands.items():
        (folder / file).write_text(output(*command))


def pods(*kubectl: str | Path) -> list[str]:
    """The names of the namespace's pods; none where kubectl fails, which pods.txt then tells."""
    try:
        listed = run(*kubectl, "get", "pods", "-o", "name")
    except Failure:
        return []
    return [line.removeprefix("pod/") for line in listed.stdout.splitlines()]


def output(*command: str | Path) -> str:
    try:
        result = run(*command, timeout=60, check=False)
    except Failure as failure:
        return f"{failure}\n"
    return result.stdout + result.stderr
