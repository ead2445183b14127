"""An API server for tests: real HTTP on a real socket, objects that a test puts into it, and faults on demand.

It answers as Kubernetes does where the client looks: lists in chunks, selectors, Status objects, logs with their times,
in chunks that end when the pod does. What no test needs is not there: no admission, no watches.
"""

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
CORE = ("pods", "events", "configmaps", "persistentvolumeclaims", "secrets", "nodes", "namespaces", "resourcequotas")
SERVED = {"kubeflow.org/v1/pytorchjobs", "trainer.kubeflow.org/v1alpha1/trainjobs"}
PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?$"
)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Fault:
    """What happens to requests whose path matches. kind: an HTTP code, `reset`, `cut` (half an answer), or `half-open`
    (no answer, and no end of the connection either). after: lines of a log that are sent before."""

    kind: int | str
    path: str = ""
    times: int = 1
    message: str = ""
    retry_after: str = ""
    after: int = 0
    methods: tuple[str, ...] = ("GET", "POST", "PATCH", "DELETE", "PUT")


@dataclass
class Log:
    """The log of one pod: times and lines, and whether more may come."""

    lines: list[tuple[datetime, str]] = field(default_factory=list)
    open: bool = True


class FakeCluster:
    """A cluster with one namespace, `team`, and tokens that it knows. requests: method and path of each, in order."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {}
        self.served = set(SERVED)
        self.logs: dict[str, Log] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens = {"good"}
        self.changed = threading.Condition()
        self.closing = False
        self.remembered: dict[str, bytes] | None = None
        cluster = self

        class Handler(_Handler):
            fake = cluster

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.closing = True
        with self.changed:
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    def put(self, path: str, *objects: Object) -> None:
        """Objects into a list such as `pods` or `kubeflow.org/v1/pytorchjobs`; one of the same name is replaced."""
        with self.changed:
            kept = self.objects.setdefault(path, [])
            for made in objects:
                made["metadata"].setdefault("namespace", "team")
                kept[:] = [old for old in kept if _key(old) != _key(made)]
                kept.append(made)
            self.changed.notify_all()

    def remember(self) -> None:
        """Renders each answer once from now on: for benchmarks, in which nothing changes and no time may go there."""
        self.remembered = {}

    def remove(self, path: str, name: str) -> None:
        with self.changed:
            self.objects[path] = [old for old in self.objects.get(path, []) if old["metadata"]["name"] != name]

    def inject(self, kind: int | str, path: str = "", times: int = 1, **how: Any) -> None:
        """The next `times` requests whose path contains this end so."""
        self.faults.append(Fault(kind, path, times, **how))

    def log(self, pod: str, *lines: str, end: bool = False) -> None:
        """Lines that a pod writes, a millisecond apart."""
        with self.changed:
            log = self.logs.setdefault(pod, Log())
            for line in lines:
                moment = log.lines[-1][0] + timedelta(milliseconds=1) if log.lines else START
                log.lines.append((moment, line))
            log.open = not end
            self.changed.notify_all()

    def kubeconfig(self, folder: Path, token: str = "good", namespace: str = "team") -> Path:
        """A kubeconfig for it, with one context."""
        user = {"token": token}
        file = folder / "kubeconfig"
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "contexts": [
                        {"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": namespace}}
                    ],
                    "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
                    "users": [{"name": "me", "user": user}],
                }
            )
        )
        return file

    def fault(self, method: str, path: str) -> Fault | None:
        with self.changed:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path and method in fault.methods:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """A cluster that is gone afterwards."""
    made = FakeCluster()
    try:
        yield made
    finally:
        made.close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeCluster
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_any(self) -> None:
        fake = self.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fake.requests.append((self.command, self.path))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        fault = fake.fault(self.command, self.path)
        if fault and not fault.after:
            return self.fail(fault)
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in fake.tokens:
            return self.status(401, "Unauthorized", "Unauthorized")
        if url.path == "/version":
            return self.answer(200, {"gitVersion": "v1.34.4", "major": "1", "minor": "34"})
        found = PATH.match(url.path)
        if not found or not self.is_served(found):
            return self.plain(404, "404 page not found\n")
        parts = found.groupdict()
        path = _list_path(parts)
        remembered = fake.remembered
        if remembered is not None and self.command == "GET" and self.path in remembered:
            return self.raw(200, remembered[self.path], "application/json")
        if parts["part"] == "log":
            return self.send_log(parts["name"], query, fault)
        handle = {"GET": self.read, "POST": self.create, "PATCH": self.patch, "DELETE": self.remove}[self.command]
        return handle(path, parts, query, json.loads(body) if body else {})

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any

    def is_served(self, found: re.Match[str]) -> bool:
        parts = found.groupdict()
        return not parts["group"] or _list_path(parts) in self.fake.served

    def read(self, path: str, parts: dict[str, str], query: dict[str, str], body: Object) -> None:
        items = self.fake.objects.get(path, [])
        if parts["namespace"]:
            items = [item for item in items if item["metadata"]["namespace"] == parts["namespace"]]
        if parts["name"]:
            items = [item for item in items if item["metadata"]["name"] == parts["name"]]
            return self.answer(200, items[0]) if items else self.missing(path, parts)
        items = [item for item in items if _selected(item, query.get("labelSelector", ""))]
        items = [item for item in items if _has_fields(item, query.get("fieldSelector", ""))]
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0) or len(items)
        page, rest = items[start : start + limit], items[start + limit :]
        metadata = {"resourceVersion": "1"} | ({"continue": str(start + limit)} if rest else {})
        return self.answer(200, {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page})

    def create(self, path: str, parts: dict[str, str], query: dict[str, str], body: Object) -> None:
        name = body["metadata"].get("name", "")
        if any(old["metadata"]["name"] == name for old in self.fake.objects.get(path, [])):
            return self.status(409, "AlreadyExists", f'{parts["plural"]} "{name}" already exists')
        if not query.get("dryRun"):
            body["metadata"]["namespace"] = parts["namespace"]
            self.fake.put(path, body)
        return self.answer(201, body)

    def patch(self, path: str, parts: dict[str, str], query: dict[str, str], body: Object) -> None:
        for item in self.fake.objects.get(path, []):
            if item["metadata"]["name"] == parts["name"]:
                if not query.get("dryRun"):
                    _merge(item, body)
                return self.answer(200, item)
        return self.missing(path, parts)

    def remove(self, path: str, parts: dict[str, str], query: dict[str, str], body: Object) -> None:
        if not any(item["metadata"]["name"] == parts["name"] for item in self.fake.objects.get(path, [])):
            return self.missing(path, parts)
        self.fake.remove(path, parts["name"])
        return self.status(200, "", "")

    def send_log(self, pod: str, query: dict[str, str], fault: Fault | None) -> None:
        """A log, from a time on or its last lines; until the pod has ended, where it is followed."""
        fake = self.fake
        if pod not in fake.logs:
            return self.status(
                400, "BadRequest", f'container "pytorch" in pod "{pod}" is waiting to start: ContainerCreating'
            )
        log = fake.logs[pod]
        place = 0
        if since := query.get("sinceTime"):
            # Kubernetes compares whole seconds.
            moment = datetime.fromisoformat(since).replace(microsecond=0)
            place = next((i for i, (when, _) in enumerate(log.lines) if when >= moment), len(log.lines))
        if tail := query.get("tailLines"):
            place = max(place, len(log.lines) - int(tail))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            with fake.changed:
                waiting = log.lines[place:]
                ended = not log.open or fake.closing or not query.get("follow")
                if not waiting and not ended:
                    fake.changed.wait(0.5)
                    continue
            for when, text in waiting:
                if fault and sent >= fault.after:
                    return self.fail(fault)
                stamp = f"{when:%Y-%m-%dT%H:%M:%S.%f}000Z " if query.get("timestamps") else ""
                self.chunk(f"{stamp}{text}\n".encode())
                sent += 1
                place += 1
            if ended:
                break
        self.wfile.write(b"0\r\n\r\n")
        return None

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def fail(self, fault: Fault) -> None:
        if isinstance(fault.kind, int):
            return self.status(fault.kind, fault.message or str(fault.kind), fault.message, fault.retry_after)
        self.close_connection = True
        if fault.kind == "half-open":
            while not self.fake.closing:
                time.sleep(0.05)
        if fault.kind == "cut":
            if not fault.after:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"items": [')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return None

    def missing(self, path: str, parts: dict[str, str]) -> None:
        details = {"name": parts["name"], "kind": parts["plural"]}
        self.status(404, "NotFound", f'{parts["plural"]} "{parts["name"]}" not found', details=details)

    def status(
        self, code: int, reason: str, message: str, retry_after: str = "", details: Object | None = None
    ) -> None:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure" if code >= 300 else "Success",
            "reason": reason,
            "message": message,
            "details": details or {},
            "code": code,
        }
        self.answer(code, status, retry_after)

    def answer(self, code: int, body: Object, retry_after: str = "") -> None:
        data = json.dumps(body).encode()
        if self.fake.remembered is not None and code == 200:
            self.fake.remembered[self.path] = data
        self.raw(code, data, "application/json", retry_after)

    def plain(self, code: int, text: str) -> None:
        self.raw(code, text.encode(), "text/plain")

    def raw(self, code: int, data: bytes, kind: str, retry_after: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(data)


def _list_path(parts: dict[str, str]) -> str:
    return f"{parts['group']}/{parts['version']}/{parts['plural']}" if parts["group"] else parts["plural"]


def _key(made: Object) -> tuple[str, str]:
    return made["metadata"]["namespace"], made["metadata"]["name"]


def _selected(item: Object, selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, equals, value = term.partition("=")
        if (equals and labels.get(name) != value.removeprefix("=")) or (not equals and name not in labels):
            return False
    return True


def _has_fields(item: Object, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, _, value = term.partition("=")
        found: Any = item
        for part in path.split("."):
            found = (found or {}).get(part)
        if found != value.removeprefix("="):
            return False
    return True


def _merge(item: Object, change: Object) -> None:
    for name, value in change.items():
        if value is None:
            item.pop(name, None)
        elif isinstance(value, dict) and isinstance(item.get(name), dict):
            _merge(item[name], value)
        else:
            item[name] = value
