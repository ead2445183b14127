"""Metadata servers of three clouds, as strict as the real ones, on this machine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from distrain_trainer.launch.spot import ADDRESSES
from distrain_trainer.settings.sections import Cloud

MACHINE = "gpu-vm_1"
Answer = tuple[int, str, dict[str, str]]
"""Status, content and headers."""


@dataclass
class MetadataServer:
    """A machine's server. address: its URL. asked: paths that it has answered. tokens: of AWS, those that hold."""

    cloud: Cloud
    address: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    failing: bool = False
    _events: list[dict[str, object]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def environment(self) -> dict[str, str]:
        """Where the cloud's libraries find it."""
        return {ADDRESSES[self.cloud][0]: self.address}

    def take_away(self, machine: str = MACHINE, kind: str = "Preempt") -> None:
        """Gives notice. machine, kind: of the event, which only Azure tells apart."""
        with self._changed:
            when = "Mon, 19 Sep 2026 18:29:47 GMT"
            self._events.append({"EventType": kind, "Resources": [machine], "NotBefore": when})
            self._changed.notify_all()

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        """What a real one answers."""
        if self.failing:
            return 503, "", {}
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return {"aws": self._aws, "gcp": self._gcp, "azure": self._azure}[self.cloud](method, url.path, query, headers)

    def _aws(self, method: str, path: str, _: dict[str, str], headers: dict[str, str]) -> Answer:
        if path == "/latest/api/token":
            if method != "PUT" or not 1 <= int(headers.get("x-aws-ec2-metadata-token-ttl-seconds", 0)) <= 21600:
                return 400, "", {}
            self.tokens.append(f"token-{len(self.asked)}")
            return 200, self.tokens[-1], {}
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, "", {}
        if path != "/latest/meta-data/spot/instance-action" or not self._events:
            return 404, "", {}
        return 200, json.dumps({"action": "terminate", "time": "2026-09-18T08:22:00Z"}), {}

    def _gcp(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return 403, "", {}
        if path != "/computeMetadata/v1/instance/preempted":
            return 404, "", {}
        with self._changed:
            if query.get("wait_for_change") == "true" and query.get("last_etag") == self._etag:
                before = self._etag
                self._changed.wait_for(lambda: self._etag != before, timeout=float(query["timeout_sec"]))
            return 200, "TRUE" if self._events else "FALSE", {"ETag": self._etag}

    @property
    def _etag(self) -> str:
        return f"etag{len(self._events)}"

    def _azure(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if headers.get("metadata") != "true" or "api-version" not in query:
            return 400, "", {}
        if path == "/metadata/instance/compute/name" and query.get("format") == "text":
            return 200, MACHINE, {}
        if path != "/metadata/scheduledevents":
            return 404, "", {}
        return 200, json.dumps({"DocumentIncarnation": len(self._events), "Events": self._events}), {}


@contextmanager
def serve(cloud: Cloud) -> Iterator[MetadataServer]:
    """The metadata server of a machine, while the block runs."""
    made = MetadataServer(cloud)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            status, content, headers = made.answer(
                self.command, self.path, {name.lower(): value for name, value in self.headers.items()}
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        do_PUT = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield made
        finally:
            server.shutdown()
