"""What Helm's `lookup` asks of an API server, answered on this machine: the objects that a test says are there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Object = dict[str, Any]
PLURALS = {"ConfigMap": "configmaps", "PersistentVolumeClaim": "persistentvolumeclaims"}


@contextmanager
def holding(*objects: Object) -> Iterator[str]:
    """The address of a server that has these objects in the namespace `team`."""
    resources = [{"name": plural, "kind": kind, "namespaced": True} for kind, plural in PLURALS.items()]
    answers: dict[str, Object] = {
        "/api/v1": {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": resources}
    }
    for found in objects:
        path = f"/api/v1/namespaces/team/{PLURALS[found['kind']]}/{found['metadata']['name']}"
        answers[path] = {"apiVersion": "v1", **found}
    missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0], missing)
            self.send_response(200 if answer is not missing else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
