"""What the client makes of a real API server's answers: kube-apiserver and etcd alone, without nodes or controllers."""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from distrain_k8s.kube.client import Api, Patience, connect
from distrain_k8s.kube.resources import PYTORCHJOBS, Resource
from distrain_k8s.runs.wait import wait_for
from helm_cluster import CACHE, HELM, distrain
from made import pytorchjob

PROGRAMS = {name: CACHE / name for name in ("etcd", "kube-apiserver")}
pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(
        HELM is None or not all(path.exists() for path in PROGRAMS.values()),
        reason=f"kube-apiserver, etcd or helm is not in {CACHE}: make kind-up builds them",
    ),
]
ROOT = Path(__file__).parents[2]
ROLES = Resource("Role", "roles", "rbac.authorization.k8s.io")
BINDINGS = Resource("RoleBinding", "rolebindings", "rbac.authorization.k8s.io")
CRDS = Resource("CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", namespaced=False)
WEBHOOKS = Resource(
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    "admissionregistration.k8s.io",
    namespaced=False,
)
SMALL = ("--set", "image.repository=registry.local/distrain", "-y")


class Server:
    """A kube-apiserver with its etcd, and the tokens of `admin`, `viewer` and `nobody`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port, self._etcd_port, peer = free_port(), free_port(), free_port()
        clients, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer}"
        self.etcd = self._start(
            *("etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *(
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"default={peers}",
            ),
        )
        (folder / "tokens.csv").write_text('admin,admin,1,"system:masters"\nviewer,viewer,2\nnobody,nobody,3\n')
        subprocess.run(["openssl", "genrsa", "-out", str(folder / "key"), "2048"], check=True, capture_output=True)
        self.api = self.start_api()

    def start_api(self) -> subprocess.Popen[bytes]:
        """Starts the API server and waits until it is ready."""
        key = str(self.folder / "key")
        self.api = self._start(
            *("kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{self._etcd_port}"),
            *("--secure-port", str(self.port), "--bind-address", "127.0.0.1", "--cert-dir", str(self.folder / "certs")),
            *("--token-auth-file", str(self.folder / "tokens.csv"), "--authorization-mode", "RBAC"),
            *("--service-account-key-file", key, "--service-account-signing-key-file", key),
            *("--service-account-issuer", "https://kubernetes", "--service-cluster-ip-range", "10.0.0.0/24"),
            *("--disable-admission-plugins", "ServiceAccount"),
        )
        unverified = ssl._create_unverified_context()
        request = urllib.request.Request(f"{self.address}/readyz", headers={"Authorization": "Bearer admin"})
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(request, context=unverified, timeout=5)
                return self.api
            except (OSError, urllib.error.URLError):
                assert time.monotonic() < until and self.api.poll() is None, "the API server does not start"
                time.sleep(0.2)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{program}.log").open("ab")
        return subprocess.Popen([str(PROGRAMS[program]), *arguments], stdout=log, stderr=log, cwd=self.folder)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, token: str) -> Path:
        file = self.folder / f"{token}.kubeconfig"
        authority = base64.b64encode((self.folder / "certs" / "apiserver.crt").read_bytes()).decode()
        cluster = {"server": self.address, "certificate-authority-data": authority}
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bare",
            "contexts": [{"name": "bare", "context": {"cluster": "bare", "user": token, "namespace": "team"}}],
            "clusters": [{"name": "bare", "cluster": cluster}],
            "users": [{"name": token, "user": {"token": token}}],
        }
        file.write_text(json.dumps(config))
        return file

    def connect(self, token: str, **patience: float) -> Api:
        return connect(kubeconfig=str(self.kubeconfig(token)), patience=Patience(**patience))

    def close(self) -> None:
        for process in (self.api, self.etcd):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        with closing(made) as api:
            api.create(Resource("Namespace", "namespaces", namespaced=False), {"metadata": {"name": "team"}})
        yield made
    finally:
        made.close()


@contextmanager
def closing(server: Server) -> Iterator[Api]:
    api = server.connect("admin")
    try:
        yield api
    finally:
        api.close()


@pytest.fixture
def typed(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """`distrain ARGUMENTS` as somebody: exit code, and the only sentence that was said."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(str(HELM)).parent), os.environ["PATH"])))
    monkeypatch.setenv("HELM_DRIVER", "configmap")

    def run(who: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(who)))
        code, _, err = distrain(capsys, *arguments)
        return code, (err.strip().splitlines() or [""])[-1]

    return run


def test_1_the_operator_is_not_installed(typed: Callable[..., tuple[int, str]]) -> None:
    for command in (("list",), ("status", "run1"), ("wait", "run1")):
        code, said = typed("admin", *command)
        assert code == 104, said
        assert "the cluster does not know pytorchjobs.kubeflow.org" in said and "is not installed there" in said
    code, said = typed("admin", "submit", "--name", "run1", *SMALL)
    assert code == 104 and "pytorchjobs.kubeflow.org" in said


def installed(server: Server) -> None:
    """The kind PyTorchJob, as the operator would install it, but for its schema."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    names = {"kind": "PyTorchJob", "plural": "pytorchjobs", "singular": "pytorchjob"}
    spec = {"group": "kubeflow.org", "names": names, "scope": "Namespaced", "versions": [version]}
    with closing(server) as api:
        crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
        api.create(CRDS, crd | {"metadata": {"name": "pytorchjobs.kubeflow.org"}})
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                api.list(PYTORCHJOBS)
                return
            except Exception:
                time.sleep(0.3)
    raise AssertionError("the kind is not served")


def test_2_no_permission_names_verb_resource_and_namespace(
    server: Server, typed: Callable[..., tuple[int, str]]
) -> None:
    installed(server)
    code, said = typed("nobody", "list")
    assert code == 104 and said == (
        "distrain: nobody may not list pytorchjobs.kubeflow.org in the namespace team; ask for a Role that allows it "
        "(docs/client.md), and check with kubectl auth can-i list pytorchjobs.kubeflow.org -n team"
    )
    with closing(server) as api:
        api.create(ROLES, yaml.safe_load((ROOT / "docs" / "viewer-role.yaml").read_text()))
        subject = {"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "Role", "name": "distrain-viewer", "apiGroup": "rbac.authorization.k8s.io"}
        api.create(BINDINGS, {"metadata": {"name": "viewer"}, "subjects": [subject], "roleRef": role})
        api.create(PYTORCHJOBS, bare(pytorchjob("run1", nodes=1)))
    assert typed("viewer", "list")[0] == 0 and typed("viewer", "status", "run1")[0] == 0
    code, said = typed("viewer", "stop", "run1")
    assert code == 104 and "viewer may not patch pytorchjobs.kubeflow.org in the namespace team" in said
    code, said = typed("viewer", "submit", "--name", "run2", *SMALL)
    assert code == 104 and "viewer may not" in said
    code, said = typed("stranger", "list")
    assert code == 104 and "does not accept our credentials; log in again" in said


def bare(job: dict[str, Any]) -> dict[str, Any]:
    """A job without what the server adds."""
    labels = job["metadata"].get("labels", {})
    metadata = {"name": job["metadata"]["name"], "labels": labels}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": job["spec"]}


def test_3_a_webhook_that_does_not_answer_is_named(server: Server, typed: Callable[..., tuple[int, str]]) -> None:
    hook = {
        "name": "validator.training-operator.kubeflow.org",
        "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/validate"},
        "rules": [
            {"apiGroups": ["kubeflow.org"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pytorchjobs"]}
        ],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
    }
    with closing(server) as api:
        api.create(WEBHOOKS, {"metadata": {"name": "broken"}, "webhooks": [hook]})
        try:
            time.sleep(2)  # until the server has heard of it
            code, said = typed("admin", "submit", "--name", "run3", *SMALL)
            assert (
                code == 104 and "the admission webhook validator.training-operator.kubeflow.org does not answer" in said
            )
        finally:
            api.delete(WEBHOOKS, "broken")


def test_4_waiting_lives_through_a_restart_of_the_server(server: Server) -> None:
    api = server.connect("admin", connect=2, read=5)
    said: list[str] = []
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(wait_for(api, "run1", 300, say=said.append, look=0.2)))
    waiting.start()
    while not said:
        time.sleep(0.1)
    server.api.kill()
    server.api.wait()
    time.sleep(2)
    assert waiting.is_alive()
    server.start_api()
    condition = {"type": "Succeeded", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    with closing(server) as other:
        job = other.get(PYTORCHJOBS, "run1")
        job["status"] = {"conditions": [condition]}
        patch = json.dumps({"status": job["status"]}).encode()
        request = urllib.request.Request(
            f"{server.address}/apis/kubeflow.org/v1/namespaces/team/pytorchjobs/run1/status", patch, method="PATCH"
        )
        request.add_header("Authorization", "Bearer admin")
        request.add_header("Content-Type", "application/merge-patch+json")
        urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=10)
    waiting.join(60)
    assert found and found[0].code == 0, (found, said)


def test_5_a_server_that_hangs_or_is_gone_is_told(server: Server, typed: Callable[..., tuple[int, str]]) -> None:
    command = [sys.executable, "-m", "distrain_k8s.cli", "list", "--kubeconfig", str(server.kubeconfig("admin"))]
    server.api.send_signal(signal.SIGSTOP)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    server.api.send_signal(signal.SIGCONT)
    assert done.returncode == 104 and f"the API server at {server.address} does not answer" in done.stderr, done.stderr
    server.api.kill()
    server.api.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 104 and "connection refused" in done.stderr and "kubectl cluster-info" in done.stderr
