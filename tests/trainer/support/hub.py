"""A local server in place of the Hub, with the few routes that huggingface_hub, datasets and transformers use."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Repository:
    """A model or data set with one commit. gated and private answer as the Hub does without a token."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        """40 hex digits that follow from the files."""
        digest = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Hub:
    """The running service. requests: method and path of each request so far. answers: statuses with which it answers
    everything while there is one, as when it is overloaded."""

    url: str
    requests: list[str]
    answers: list[int]

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that talks to this Hub and keeps its caches in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serves `models/owner/name` and `datasets/owner/name` on a free port of this machine."""
    requests: list[str] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.body = json.loads(body) if body[:1] == b"{" else {}
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            requests.append(f"{self.command} {path}")
            if answers:
                self.answer(answers[-1], b"{}")
                return
            api = re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?", path)
            file = re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path)
            if api:
                self.about(f"{api[1]}/{api[2]}", api[3], api[4])
            elif file:
                self.file(("datasets/" if file[1] else "models/") + file[2], file[3], file[4])
            else:
                self.answer(404, b"{}")

        def found(self, key: str, revision: str | None) -> Repository | None:
            repository = repositories.get(key)
            if repository is None or repository.private:
                self.refuse(401, "RepoNotFound", "Repository not found")
            elif revision not in (None, "main", repository.commit):
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return repository
            return None

        def about(self, key: str, what: str | None, revision: str) -> None:
            repository = self.found(key, revision)
            if repository is None:
                return
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in sorted(repository.files.items())
            ]
            if what == "tree":
                answer: object = entries
            elif what == "paths-info":
                wanted = self.body.get("paths", [])
                answer = [entry for entry in entries if entry["path"] in wanted]
            else:
                siblings = [{"rfilename": path} for path in sorted(repository.files)]
                about: dict[str, Any] = {"id": key.partition("/")[2], "sha": repository.commit, "siblings": siblings}
                answer = about | {"private": False, "gated": "auto" if repository.gated else False, "tags": []}
            self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def file(self, key: str, revision: str, path: str) -> None:
            repository = self.found(key, revision)
            if repository is None:
                return
            if repository.gated:
                self.refuse(401, "GatedRepo", "Access to this repository is restricted")
            elif path not in repository.files:
                self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repository.commit})
            else:
                content = repository.files[path]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(200, content, {"ETag": etag, "X-Repo-Commit": repository.commit})

        def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
            told = {"X-Error-Code": code, "X-Error-Message": message} | (headers or {})
            self.answer(status, json.dumps({"error": message}).encode(), told)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", requests, answers)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
