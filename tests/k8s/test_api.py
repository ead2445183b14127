"""The API server and the network fail in all their ways: the client tries again, or says one sentence."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distrain_k8s.errors import (
    ClientError,
    Conflict,
    ConnectionLost,
    Forbidden,
    KubeconfigError,
    NotFound,
    NotServed,
    Rejected,
    Unauthorized,
    Unreachable,
    WebhookDown,
)
from distrain_k8s.kube import client as kube
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.identity import read_identity
from distrain_k8s.kube.resources import PODS, PYTORCHJOBS, RUNTIMES
from fake_cluster import FakeCluster


@pytest.fixture(autouse=True)
def pods(cluster: FakeCluster) -> None:
    cluster.put("pods", *({"metadata": {"name": f"pod-{n}"}} for n in range(5)))


def names(api: Api, chunk: int = 1000) -> list[str]:
    return [pod["metadata"]["name"] for pod in api.list(PODS, chunk=chunk)]


ALL = [f"pod-{n}" for n in range(5)]


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, "reset", "cut", "half-open"])
def test_a_fault_that_passes_is_not_seen(cluster: FakeCluster, api: Api, fault: int | str) -> None:
    cluster.inject(fault, "/pods", times=2)
    assert names(api) == ALL
    assert len(cluster.requests) == 3


def test_the_servers_wish_to_wait_is_granted(cluster: FakeCluster, api: Api) -> None:
    cluster.inject(429, "/pods", retry_after="1")
    started = time.monotonic()
    assert names(api) == ALL
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "half-open"])
def test_a_fault_that_stays_is_one_sentence_soon_after_the_deadline(
    cluster: FakeCluster, api: Api, fault: int | str
) -> None:
    cluster.inject(fault, "/pods", times=10_000)
    with pytest.raises(Unreachable) as told:
        api.patient(0.3).list(PODS)
    assert told.value.exit_code == 104
    assert "\n" not in str(told.value)


def test_a_server_that_asks_for_more_time_than_there_is_is_not_waited_for(cluster: FakeCluster, api: Api) -> None:
    cluster.inject(429, "/pods", times=100, retry_after="3600", message="too many requests")
    with pytest.raises(Unreachable, match="429"):
        api.list(PODS)
    assert len(cluster.requests) == 1


def test_a_person_is_told_once_that_the_server_is_away(
    cluster: FakeCluster, api: Api, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "SAID_AFTER", 0.0)
    cluster.inject("reset", "/pods", times=4)
    assert names(api) == ALL
    assert said == [f"{cluster.address} does not answer (it closed the connection); trying again"]


def test_an_expired_token_is_read_again_once(cluster: FakeCluster, api: Api, tmp_path: Path) -> None:
    assert names(api) == ALL
    cluster.tokens = {"new"}
    cluster.kubeconfig(tmp_path, token="new")
    assert names(api) == ALL
    cluster.tokens = {"another"}
    before = len(cluster.requests)
    with pytest.raises(Unauthorized, match="does not accept our credentials"):
        api.list(PODS)
    assert len(cluster.requests) == before + 2


def test_a_list_comes_in_chunks_and_starts_anew_when_it_has_expired(cluster: FakeCluster, api: Api) -> None:
    assert names(api, chunk=2) == ALL
    assert len(cluster.requests) == 3
    cluster.inject(410, "continue=2")
    assert names(api, chunk=2) == ALL
    assert len(cluster.requests) == 3 + 2 + 3


def test_a_list_that_always_expires_is_read_in_one_piece(cluster: FakeCluster, api: Api) -> None:
    cluster.inject(410, "continue=", times=100)
    assert names(api, chunk=2) == ALL


def test_what_is_made_is_never_made_twice(cluster: FakeCluster, api: Api) -> None:
    cluster.inject("reset", "/pods", methods=("POST",))
    with pytest.raises(ConnectionLost, match="whether it did is not known"):
        api.create(PODS, {"metadata": {"name": "new"}})
    assert [method for method, _ in cluster.requests] == ["POST"]
    cluster.inject(503, "/pods", methods=("POST",))  # the server has done nothing
    api.create(PODS, {"metadata": {"name": "new"}})
    with pytest.raises(Conflict, match="already exists"):
        api.create(PODS, {"metadata": {"name": "new"}})


def test_no_permission_says_which_verb_on_what(cluster: FakeCluster, api: Api) -> None:
    message = 'pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "team"'
    cluster.inject(403, "/pods", message=message)
    with pytest.raises(Forbidden, match="bob may not list pods in the namespace team") as told:
        api.list(PODS)
    assert (told.value.verb, told.value.resource, told.value.namespace) == ("list", "pods", "team")
    message = 'User "bob" cannot list resource "pytorchjobs" in API group "kubeflow.org" at the cluster scope'
    cluster.inject(403, "/pytorchjobs", message=message)
    with pytest.raises(Forbidden, match=r"may not list pytorchjobs.kubeflow.org in the whole cluster"):
        api.list(PYTORCHJOBS, everywhere=True)


@pytest.mark.parametrize(
    ("code", "message", "kind", "sentence"),
    [
        (403, 'pods "x" is forbidden: exceeded quota: small, requested: pods=1', Rejected, "exceeded quota: small"),
        (422, "spec.replicas: Invalid value", Rejected, "spec.replicas: Invalid value"),
        (
            500,
            'Internal error occurred: failed calling webhook "v.example.com": failed to call webhook: Post '
            '"https://w.default.svc:443/": dial tcp 10.0.0.1:443: connect: connection refused',
            WebhookDown,
            "v.example.com does not answer",
        ),
    ],
)
def test_a_refusal_is_told_as_the_server_puts_it(
    cluster: FakeCluster, api: Api, code: int, message: str, kind: type[ClientError], sentence: str
) -> None:
    cluster.inject(code, "/pods", times=100, message=message)
    with pytest.raises(kind, match=sentence):
        api.patient(0.1).create(PODS, {"metadata": {"name": "x"}})


def test_what_is_not_there_and_what_is_not_known_are_two_things(api: Api) -> None:
    with pytest.raises(NotFound, match="there is no PyTorchJob run9 in the namespace team") as told:
        api.get(PYTORCHJOBS, "run9")
    assert told.value.exit_code == 102
    with pytest.raises(NotServed, match="Kubeflow Trainer v2 is not installed") as unknown:
        api.list(RUNTIMES)
    assert unknown.value.exit_code == 104


def test_a_stream_that_breaks_is_told(cluster: FakeCluster, api: Api) -> None:
    cluster.log("pod-1", "a", "b", "c")
    for fault in ("reset", "cut", "half-open"):
        cluster.inject(fault, "/log", after=2)
        seen = []
        with api.stream(PODS, "pod-1", "log", {"follow": True}, read=0.3) as lines, pytest.raises(ConnectionLost):
            seen += list(lines)
    cluster.log("pod-1", "d", end=True)
    with api.stream(PODS, "pod-1", "log", {"follow": True}, read=3) as lines:
        assert list(lines) == [b"a", b"b", b"c", b"d"]


def test_a_pod_that_is_followed_says_its_lines_as_they_come(cluster: FakeCluster, api: Api) -> None:
    cluster.log("pod-1", "a")
    with api.stream(PODS, "pod-1", "log", {"follow": True}, read=5) as lines:
        assert next(lines) == b"a"
        threading.Timer(0.1, cluster.log, ["pod-1", "b"], {"end": True}).start()
        assert list(lines) == [b"b"]


# Who we are


def config(folder: Path, name: str, current: str = "", contexts: tuple[str, ...] = (), namespace: str = "") -> Path:
    file = folder / name
    made = {
        "current-context": current,
        "contexts": [{"name": c, "context": {"cluster": c, "user": c, "namespace": namespace}} for c in contexts],
        "clusters": [{"name": c, "cluster": {"server": f"https://{c}.example.com"}} for c in contexts],
        "users": [{"name": c, "user": {"token": c}} for c in contexts],
    }
    file.write_text(json.dumps(made))
    return file


def test_the_first_file_of_several_that_sets_a_value_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config(tmp_path, "first", contexts=("a",), namespace="team")
    second = config(tmp_path, "second", current="a", contexts=("a", "b"))
    third = config(tmp_path, "third", current="b")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'missing'}:{second}:{third}")
    found = read_identity()
    assert (found.context, found.namespace, found.configuration.host) == ("a", "team", "https://a.example.com")
    assert read_identity(context="b").configuration.host == "https://b.example.com"
    assert read_identity(context="b").namespace == "default"


def test_a_kubeconfig_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(KubeconfigError, match="set KUBECONFIG"):
        read_identity()
    with pytest.raises(KubeconfigError, match="there is no kubeconfig /nowhere"):
        read_identity(kubeconfig="/nowhere")
    file = config(tmp_path, "one", current="a", contexts=("a",))
    with pytest.raises(KubeconfigError, match="has no context b; it has a"):
        read_identity(kubeconfig=str(file), context="b")
    for content in ("", "[]", "{", "contexts: 3", "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]"):
        file.write_text(content)
        with pytest.raises(KubeconfigError) as told:
            read_identity(kubeconfig=str(file))
        assert "\n" not in str(told.value) and told.value.exit_code == 64


def test_proxies_are_those_that_kubectl_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = config(tmp_path, "one", current="a", contexts=("a",))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "a.example.com")
    found = read_identity(kubeconfig=str(file)).configuration
    assert found.proxy == "http://proxy:3128" and found.no_proxy == "a.example.com"
    made = json.loads(file.read_text())
    made["clusters"][0]["cluster"]["proxy-url"] = "http://other:3128"
    file.write_text(json.dumps(made))
    assert read_identity(kubeconfig=str(file)).configuration.proxy == "http://other:3128"


# What is imported


def imported(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_that_takes_time() -> None:
    found = imported("from distrain_k8s.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass")
    assert not found & {"kubernetes", "pydantic", "yaml", "rich", "urllib3", "torch", "requests", "huggingface_hub"}


def test_asking_the_cluster_imports_none_of_the_typed_models_nor_what_seldom_serves(tmp_path: Path) -> None:
    file = config(tmp_path, "one", current="a", contexts=("a",))
    asking = f"import distrain_k8s.watch.commands as watch\nwatch.connect(kubeconfig={str(file)!r})"
    heavy = ("kubernetes.", "pydantic", "torch", "requests", "oauthlib", "charset_normalizer", "rich")
    assert not {name for name in imported(asking) if name.startswith(heavy)}


def test_what_is_imported_later_is_there_when_it_is_used() -> None:
    """For a proxy, and for the refresh of an OIDC token."""
    code = """
from distrain_k8s.kube.official import official
parts = official()
assert parts.rest.should_bypass_proxies("http://inside", no_proxy="inside")
assert issubclass(parts.kube_config.oauthlib.oauth2.rfc6749.errors.InvalidClientIdError, Exception)
assert parts.kube_config.OAuth2Session(client_id="me").client_id == "me"
"""
    assert {"requests", "oauthlib", "requests_oauthlib"} <= imported(code)


def test_the_official_package_is_whole_for_whoever_imports_it_before_or_after(tmp_path: Path) -> None:
    file = config(tmp_path, "one", current="a", contexts=("a",))
    ours = f"from distrain_k8s.kube.client import connect\nconnect(kubeconfig={str(file)!r})"
    whole = "import kubernetes\nassert kubernetes.client.V1Pod and kubernetes.config.load_kube_config\n"
    for code in (f"{ours}\n{whole}", f"{whole}{ours}"):
        assert "kubernetes.client.models.v1_pod" in imported(code)


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    code = f"""
import importlib.machinery as machinery
real = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = lambda name, *more: None if name == "kubernetes" else real(name, *more)
from distrain_k8s.cli import main
main(["list", "--kubeconfig", {str(config(tmp_path, "one", current="a", contexts=("a",)))!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr == (
        "distrain: the client needs kubernetes, which is not installed; run pip install --upgrade distrain\n"
    )
