"""The Roles of the documents, bound to service accounts, at the real API server: a viewer watches and is told in one
sentence what it may not do; a submitter does all that the client does, without reading a Secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import kubectl
from cluster.kubectl import Object
from cluster.namespace import Namespace
from cluster.shell import BIN
from release import ROOT, TINY, Release, claim

Command = Callable[..., tuple[int, str, str]]


def account(namespace: Namespace, name: str, roles: list[str], folder: Path) -> Path:
    """A kubeconfig of a service account with these Roles."""
    namespace.kubectl("create", "serviceaccount", name)
    for role in roles:
        namespace.kubectl("apply", "-f", str(ROOT / "docs" / f"{role}-role.yaml"))
        namespace.kubectl(
            *("create", "rolebinding", f"{name}-{role}", f"--role=distrain-{role}"),
            f"--serviceaccount={namespace.name}:{name}",
        )
    token = namespace.kubectl("create", "token", name).strip()
    config: Object = json.loads(kubectl.run("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"] = [{"name": name, "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": name, "namespace": namespace.name}
    file = folder / f"{name}.kubeconfig"
    file.write_text(json.dumps(config))
    return file


@pytest.fixture
def commands(namespace: Namespace, tmp_path: Path) -> dict[str, Command]:
    """`distrain` as the viewer and as the submitter: exit code, stdout and stderr."""

    def as_account(name: str, *roles: str) -> Command:
        file = account(namespace, name, list(roles), tmp_path)
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"KUBECONFIG": str(file), "HELM_DRIVER": "configmap", "PATH": path}

        def command(*arguments: str) -> tuple[int, str, str]:
            line = [sys.executable, "-m", "distrain_k8s.cli", *arguments]
            done = subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment)
            assert "Traceback" not in done.stderr, done.stderr
            return done.returncode, done.stdout, done.stderr

        return command

    return {"viewer": as_account("eve", "viewer"), "submitter": as_account("sam", "viewer", "submitter")}


def test_a_viewer_watches_and_a_submitter_does_everything(
    namespace: Namespace, image: str, inputs: Path, commands: dict[str, Command], tmp_path: Path
) -> None:
    viewer, submitter = commands["viewer"], commands["submitter"]
    assert namespace.kubectl("auth", "can-i", "get", "secrets", f"--as=system:serviceaccount:{namespace.name}:sam",
                             check=False).strip() == "no"  # fmt: skip
    settings = TINY | {"model": {"name": "/data/bert"}}
    values = {"trainer": settings, "persistence": {"existingClaim": "team"}}
    small = str(Release(namespace, image, inputs, values).file())
    shared = namespace.volume("team")
    (shared / "other-run").mkdir()
    namespace.apply(claim("team"))

    # A submission that follows the logs, and ends as the run does
    code, out, err = submitter("submit", "--name", "run1", "-y", "--logs", small)
    assert code == 0, err
    assert out.splitlines()[0] == "run1" and '"loss"' in out
    assert "run1 has succeeded" in err
    assert not namespace.get("secrets", "-l", "owner=helm").get("items")

    # Watching
    for command in (("list",), ("status", "run1"), ("logs", "run1"), ("events", "run1"), ("wait", "run1")):
        code, out, err = viewer(*command)
        assert code == 0, (command, err)
    refused: tuple[tuple[tuple[str, ...], str], ...] = (
        (("submit", "--name", "run2", "-y", small), "create"),
        (("fetch", "run1"), "persistentvolumeclaims"),
        (("logs", "run1", "--previous"), "persistentvolumeclaims"),
        (("stop", "run1"), ""),
        (("delete", "run1", "-y"), ""),
    )
    for typed, verb in refused:
        code, _, err = viewer(*typed)
        assert code not in (0, 1) and verb in err and len(err.strip().splitlines()) == 1, (typed, err)
    assert "sam may not" not in err

    # Everything else
    code, out, err = submitter("fetch", "run1", "--to", "here")
    assert code == 0 and (tmp_path / "here" / "report.html").exists(), err
    code, out, err = submitter("logs", "run1", "--previous")
    assert code == 0 and 'attempt 1 node 0 | {"' in out, err
    code, out, err = submitter("compare", "run1", "here", "-o", "json")
    assert code == 0 and len(json.loads(out)) == 2, err
    code, out, err = submitter("submit", "--name", "run2", "-y", small, "--schedule.max_steps", "400")
    assert code == 0, err
    namespace.wait("it trains", lambda: (shared / "run2" / "metrics.jsonl").exists() or None, deadline=240)
    code, out, err = submitter("stop", "run2", "--wait")
    assert code == 0 and list((shared / "run2").glob("checkpoint-*")), err
    code, out, err = submitter("resume", "run2", "-y", "--schedule.max_steps", "30")
    assert code == 0, err
    code, out, err = submitter("wait", "run2", "--timeout", "5m")
    assert code in (0, 100), err
    code, out, err = submitter("doctor", "-o", "json")
    assert {"state": "ok", "about": "may submit", "mend": ""}.items() <= next(
        line for line in json.loads(out) if line["about"] == "may submit"
    ).items()

    # Only the run's folder goes from a claim that others share
    code, out, err = submitter("delete", "run1", "-y", "--checkpoints")
    assert code == 0, err
    assert not (shared / "run1").exists() and (shared / "run2").exists() and (shared / "other-run").exists()
    assert namespace.get("pvc", "team")
    code, out, err = submitter("delete", "run2", "-y")
    assert code == 0 and (shared / "run2").exists(), err
    assert not [pod for pod in namespace.pods() if "reader" in pod["metadata"]["name"]]


def test_two_pods_measure_the_network_and_are_removed(
    namespace: Namespace, image: str, commands: dict[str, Command]
) -> None:
    repository, _, tag = image.rpartition(":")
    values = ("--set", f"image.repository={repository},image.tag={tag}", "--set", "resources.requests.cpu=100m")
    code, out, err = commands["submitter"]("doctor", "--network", *values, "-o", "json")
    lines = {line["about"]: line for line in json.loads(out)}
    assert {"preflight", "shared memory", "versions", "latency", "bandwidth"} <= set(lines), err
    assert " ms" in lines["latency"]["sentence"] and "GB/s" in lines["bandwidth"]["sentence"]
    assert "node 0 (" in lines["shared memory"]["sentence"] and "node 1 (" in lines["shared memory"]["sentence"]
    assert nothing_is_left(namespace)

    wrong = ("--set", f"image.repository={repository},image.tag=nothing")
    code, out, err = commands["submitter"]("doctor", "--network", *wrong, "-o", "json")
    failed = next(line for line in json.loads(out) if line["about"] == "preflight" and line["state"] == "fail")
    assert code == 1 and f"waits for the image {repository}:nothing" in failed["sentence"]
    assert nothing_is_left(namespace)


def nothing_is_left(namespace: Namespace) -> bool:
    """Whether no object of a preflight is there, once its pods had time to go."""
    kinds = "pytorchjobs,configmaps,networkpolicies,pvc,pods"

    def look() -> bool | None:
        names = namespace.kubectl("get", kinds, "-o", "name").split()
        return not [name for name in names if "preflight" in name] or None

    return namespace.wait("the preflight is removed", look, deadline=90)
