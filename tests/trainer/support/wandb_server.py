"""A local server in place of W&B's, with the few routes that wandb's own client uses for a run.

It keeps what the client sends as W&B does: lines of history by their place in the stream, and a resumed run is told
what is there. How W&B shows it is not its business.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class WandbRun:
    """A run as the server holds it. history: lines in their order. summary, config: as last sent. files: by path.
    state: running, finished, failed or preempted."""

    name: str
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    display_name: str = ""
    project: str = ""
    state: str = "running"

    def steps(self, key: str) -> list[int]:
        """Steps of the lines that hold a metric."""
        return [line["_step"] for line in self.history if key in line]

    def values(self, key: str) -> list[Any]:
        """The metric of these lines."""
        return [line[key] for line in self.history if key in line]


@dataclass
class Server:
    """The running service. runs, artifacts: by id. bodies: address and body of all requests. away: answers 503 while
    True. seconds: before each answer."""

    url: str
    runs: dict[str, WandbRun] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    away: bool = False
    seconds: float = 0.0

    @property
    def run(self) -> WandbRun:
        """The one run that there is."""
        (run,) = self.runs.values()
        return run

    def environment(self, key: str = "k" * 40) -> dict[str, str]:
        """Variables for a process that talks to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": key, "WANDB_ENTITY": "team"}


@contextmanager
def serve() -> Iterator[Server]:
    """Serves on a free port of this machine."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.receive()
            self.answer(503 if server.away else 200, {})

        def do_PUT(self) -> None:
            body = self.receive()
            _, kind, run, name = unquote(urlsplit(self.path).path).split("/", 3)
            if kind == "storage":
                server.runs[run].files[name] = body
            elif kind == "artifacts":
                server.artifacts.setdefault(run, {})[name] = body
            self.answer(200, {})

        def do_POST(self) -> None:
            body = self.receive()
            path = urlsplit(self.path).path
            if server.away:
                self.answer(503, {})
            elif path == "/graphql":
                asked = json.loads(body)
                self.answer(200, {"data": graphql(asked["query"], asked.get("variables") or {})})
            elif path.endswith("/file_stream"):
                with lock:
                    stream(server.runs[path.split("/")[-2]], json.loads(body))
                self.answer(200, {})
            else:
                self.answer(404, {})

        def receive(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.bodies.append(self.path.encode() + b" " + body)
            time.sleep(server.seconds)
            return body

        def answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def graphql(query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data that answers a query of wandb's client; empty for what only changes how the client behaves."""
        name = query.split("(")[0].split("{")[0].split()[1]
        if name == "Viewer":
            return {"viewer": {"id": "1", "entity": "team", "username": "user", "email": "", "flags": "{}"}}
        if name == "RunResumeStatus":
            run = server.runs.get(given["name"])
            bucket = run and {
                "id": run.name,
                "name": run.name,
                "displayName": run.display_name,
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyLineCount": len(run.history),
                "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
                "eventsTail": "[]",
                "config": json.dumps(run.config),
                "tags": [],
                "wandbConfig": json.dumps({"t": 1}),
            }
            return {"model": {"id": "p", "name": "p", "entity": {"id": "1", "name": "team"}, "bucket": bucket}}
        if name == "UpsertBucket":
            inserted = given["name"] not in server.runs
            run = server.runs.setdefault(given["name"], WandbRun(given["name"]))
            run.display_name = given.get("displayName") or run.display_name
            run.project = given.get("project") or run.project
            run.config = json.loads(given["config"]) if given.get("config") else run.config
            run.state = "running"
            project = {"id": "p", "name": run.project, "entity": {"id": "1", "name": "team"}}
            bucket = {"id": run.name, "name": run.name, "displayName": run.display_name, "project": project}
            bucket |= {"config": json.dumps(run.config), "historyLineCount": len(run.history)}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if name == "CreateRunFiles":
            files = [
                {"name": file, "uploadUrl": f"{server.url}/storage/{given['run']}/{file}"} for file in given["files"]
            ]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
        if name == "RunState":
            return {"project": {"run": {"id": given["run"], "state": "running"}}}
        return artifact(name, given)

    def artifact(name: str, given: dict[str, Any]) -> dict[str, Any]:
        """The same for artifacts, in which tables travel."""
        if name == "ArtifactType":
            return {"project": {"artifact": None}}
        if name == "CreateArtifact":
            key = given["input"]["artifactCollectionName"]
            created = {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": created}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            key = given.get("artifactID", "manifest")
            file = {"id": "file", "uploadUrl": f"{server.url}/artifacts/{key}/manifest.json", "uploadHeaders": []}
            return {name[0].lower() + name[1:]: {"artifactManifest": {"id": key, "file": file}}}
        if name == "CreateArtifactFiles":
            nodes = [
                {
                    "storagePath": file["name"],
                    "uploadUrl": f"{server.url}/artifacts/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": file["artifactID"]},
                }
                for file in given["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
        return {}

    def stream(run: WandbRun, sent: dict[str, Any]) -> None:
        """Takes a part of a run's stream."""
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            start = history["offset"]
            run.history[start : start + len(history["content"])] = map(json.loads, history["content"])
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if sent.get("complete"):
            preempting = sent.get("preempting") and sent.get("exitcode")
            run.state = "preempted" if preempting else "failed" if sent.get("exitcode") else "finished"

    class Quiet(ThreadingHTTPServer):
        """Says nothing of clients that are killed."""

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{httpd.server_port}")
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
