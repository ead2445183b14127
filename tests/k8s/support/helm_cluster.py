"""A fake API server that the real Helm installs through: it tells what kinds it serves, and replaces objects."""

import base64
import hashlib
import io
import itertools
import json
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from distrain_k8s.cli import main
from fake_cluster import FakeCluster, _Handler, _list_path, _merge

CACHE = Path.home() / ".cache" / "distrain-kind" / "bin"
HELM = shutil.which("helm") or shutil.which("helm", path=str(CACHE))
needs_helm = pytest.mark.skipif(HELM is None, reason=f"there is no helm on PATH or in {CACHE}: make helm")

KINDS = {
    "v1": {
        "ConfigMap": "configmaps",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Secret": "secrets",
        "Pod": "pods",
        "Namespace": "namespaces",
    },
    "kubeflow.org/v1": {"PyTorchJob": "pytorchjobs"},
    "trainer.kubeflow.org/v1alpha1": {"TrainJob": "trainjobs", "TrainingRuntime": "trainingruntimes"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}


class _HelmHandler(_Handler):
    """Discovery, as `kubectl api-resources` reads it, PUT, apply, and commands in pods."""

    fake: "HelmCluster"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/exec"):
            return self.execute()
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            groups = []
            for version in list(KINDS)[1:]:
                name, _, number = version.partition("/")
                entry = {"groupVersion": version, "version": number}
                groups.append({"name": name, "versions": [entry], "preferredVersion": entry})
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            verbs = ["get", "list", "create", "update", "patch", "delete"]
            resources = [
                {"name": plural, "kind": kind, "namespaced": kind != "Namespace", "verbs": verbs, "singularName": ""}
                for kind, plural in KINDS[version].items()
            ]
            found = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
            return self.answer(200, found)
        return self.handle_any()

    def handle_any(self) -> None:
        if "protobuf" in (self.headers.get("Content-Type") or ""):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            text = json.dumps(decoded(body)).encode() if b"\n" in body else body
            self.headers.replace_header("Content-Length", str(len(text)))
            self.headers.replace_header("Content-Type", "application/json")
            self.rfile = io.BufferedReader(_Then(text, self.rfile))
        if self.command == "PUT":
            return self.replace()
        if "apply-patch" in (self.headers.get("Content-Type") or ""):
            return self.replace(merge=True)  # what Helm 4 does where Helm 3 makes and replaces
        if self.path.endswith("selfsubjectaccessreviews"):
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = review["spec"]["resourceAttributes"]
            return self.answer(
                201, {**review, "status": {"allowed": self.fake.allowed(asked["verb"], asked["resource"])}}
            )
        return super().handle_any()

    do_POST = do_PATCH = do_DELETE = do_PUT = handle_any

    def execute(self) -> None:
        """Runs a reader's command here, on the folder that stands for its claim; cuts the connection on demand."""
        command = parse_qs(urlsplit(self.path).query)["command"]
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        here = [word.replace("/out/", f"{self.fake.out}/") for word in command[3:]]
        done = subprocess.run([sys.executable, *command[1:3], *here], capture_output=True)
        self.close_connection = True
        sent = 0
        for start in range(0, len(done.stdout), 1000):
            if self.fake.cuts and sent >= self.fake.cuts[0]:
                self.fake.cuts.pop(0)
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            sent += self.frame(1, done.stdout[start : start + 1000])
        self.frame(2, done.stderr)
        causes = [{"reason": "ExitCode", "message": str(done.returncode)}]
        failed = {"status": "Failure", "details": {"causes": causes}}
        self.frame(3, json.dumps(failed if done.returncode else {"status": "Success"}).encode())

    def frame(self, channel: int, data: bytes) -> int:
        """Sends one message; the bytes of its content."""
        self.wfile.write(b"\x82\x7e" + struct.pack("!H", len(data) + 1) + bytes([channel]) + data)
        return len(data)

    def replace(self, merge: bool = False) -> None:
        from fake_cluster import PATH

        fault = self.fake.fault("POST" if merge else "PUT", self.path)
        body = yaml.safe_load(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.fake.requests.append((self.command, self.path))
        if fault:
            return self.fail(fault)
        found = PATH.match(self.path.partition("?")[0])
        assert found
        path = _list_path(found.groupdict())
        old = next((o for o in self.fake.objects.get(path, []) if o["metadata"]["name"] == found["name"]), None)
        if old and merge:
            _merge(old, body)
            body = old
        self.fake.put(path, body)
        return self.answer(200, body)

    def answer(self, code: int, body: dict[str, Any], retry_after: str = "") -> None:
        """Kubernetes tells the kind of each object; a list has it of its items' kind."""
        if body.get("kind") == "List":
            kind = next((k for kinds in KINDS.values() for k, plural in kinds.items() if f"/{plural}" in self.path), "")
            body = {**body, "kind": f"{kind}List"}
        super().answer(code, body, retry_after)


class HelmCluster(FakeCluster):
    """A fake cluster with both operators, which Helm can install into."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.out = Path()
        """What pods have at /out."""
        self.allowed: Callable[[str, str], bool] = lambda verb, resource: True
        """Whether a verb on a resource is permitted, for who asks."""
        self.cuts: list[int] = []
        """Bytes after which the next connections to a pod break."""
        self.tokens.add("")  # Helm sends no token over plain HTTP
        cluster = self

        class Handler(_HelmHandler):
            fake = cluster

        self.server.RequestHandlerClass = Handler
        self.served |= {
            "trainer.kubeflow.org/v1alpha1/trainingruntimes",
            "networking.k8s.io/v1/networkpolicies",
            "policy/v1/poddisruptionbudgets",
        }

    def put(self, path: str, *objects: dict[str, Any]) -> None:
        """As the API server does: an object has an age and an id."""
        for made in objects:
            made["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            if path == "pods" and "status" not in made:
                running = [{"name": "reader", "state": {"running": {}}}]
                made["status"] = {"phase": "Running", "containerStatuses": running}
            made["metadata"].setdefault("uid", f"uid-{made['metadata']['name']}-{next(self.numbers)}")
        super().put(path, *objects)

    def names(self, path: str) -> set[str]:
        """Names of the objects in a list."""
        return {found["metadata"]["name"] for found in self.objects.get(path, [])}

    def everything(self) -> set[str]:
        """`plural/name` of every object but nodes."""
        return {
            f"{path.rpartition('/')[2]}/{name}" for path in self.objects for name in self.names(path) if path != "nodes"
        }


class _Then(io.RawIOBase):
    """Some bytes, and then those of a stream."""

    def __init__(self, first: bytes, rest: Any) -> None:
        self.first, self.rest = first, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.first[: len(buffer)] if self.first else self.rest.read1(len(buffer))
        self.first = self.first[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def decoded(message: bytes) -> dict[str, Any]:
    """A Secret (Helm's record of a release) or DeleteOptions, which Helm sends as protobuf."""
    envelope = dict(fields(message[4:]))
    about = dict(fields(envelope[1]))
    content = list(fields(envelope.get(2, b"")))
    if about[2] != b"Secret":
        return {}
    meta = list(fields(dict(content)[1]))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": dict(meta)[1].decode(), "labels": {k.decode(): v.decode() for k, v in pairs(meta, 11)}},
        "data": {k.decode(): base64.b64encode(v).decode() for k, v in pairs(content, 2)},
        "type": dict(content)[3].decode(),
    }


def pairs(message: list[tuple[int, bytes]], number: int) -> list[tuple[bytes, bytes]]:
    """Entries of a map."""
    found = [dict(fields(data)) for field, data in message if field == number]
    return [(entry[1], entry.get(2, b"")) for entry in found]


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; numbers are passed over."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        size = varint()
        if key & 7 == 2:
            yield key >> 3, message[at : at + size]
            at += size


@contextmanager
def helm_cluster() -> Iterator[HelmCluster]:
    made = HelmCluster()
    try:
        yield made
    finally:
        made.close()


def node(name: str, *taints: dict[str, str], **allocatable: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {}},
        "spec": {"taints": [*taints]},
        "status": {"allocatable": allocatable},
    }


def distrain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err
