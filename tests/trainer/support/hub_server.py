"""What the local Hub answers: the routes that huggingface_hub, datasets and transformers use, as the Hub answers them.

Paths and bodies follow huggingface_hub's own requests: `hf_api`, `_commit_api`, `lfs` and `file_download`.
"""

import base64
import hashlib
import json
import re
import socket
import struct
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from hub import Account, Hub, Repository

STORED = (".safetensors", ".parquet", ".bin", ".arrow", ".model")
"""Endings of files that are stored by their hash; the Hub knows them by .gitattributes."""
NAME = r"(?:[\w.-]+/)?[\w.-]+"
UNKNOWN = "Invalid credentials in Authorization header"
NAMES_IN_CARDS = ("base_model", "datasets")


def handler_of(hub: "Hub") -> type[BaseHTTPRequestHandler]:
    """The class that answers a connection to this Hub."""
    return type("Handler", (Handler,), {"hub": hub})


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    hub: "Hub"
    silent = False

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks()
        self.path_alone = unquote(urlsplit(self.path).path)
        self.query = parse_qs(urlsplit(self.path).query)
        request = f"{self.command} {self.path_alone}"
        self.hub.requests.append(request)
        self.hub.bodies.append(self.body)
        if self.hub.answers:
            self.answer(self.hub.answers[-1], b"{}")
            return
        fault = self.hub.fault(request)
        if fault is None:
            self.route()
        elif isinstance(fault.does, int):
            self.refuse(fault.does, "", "the fault that was asked for", fault.headers)
        elif fault.does == "reset":
            self.drop()
        elif fault.does == "lost":
            self.silent = True
            self.route()
            self.drop()
        else:
            self.hub.released.wait()
            self.drop()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        for pattern, act in ROUTES:
            found = re.fullmatch(pattern, f"{self.command} {self.path_alone}")
            if found:
                act(self, *found.groups())
                return
        self.answer(404, b"{}")

    def chunks(self) -> bytes:
        """The body of a request without a length."""
        parts = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b"".join(parts)

    def drop(self) -> None:
        """Closes the connection so that the other side sees it reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    # Who asks

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def account(self) -> "Account | None":
        return self.hub.accounts.get(self.token())

    def may_write(self, name: str) -> bool:
        """Whether the token may write to a repository; else it is refused."""
        account = self.account()
        owner = name.partition("/")[0]
        if account is None:
            self.refuse(401, "", "Invalid username or password." if not self.token() else UNKNOWN)
        elif account.role == "read":
            self.refuse(403, "", "Forbidden: you must use a write token to upload to a repository.")
        elif owner not in (account.name, *account.orgs):
            self.refuse(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
        elif account.role == "fineGrained" and not {owner, name} & set(account.scopes):
            self.refuse(403, "", "Forbidden: the token has no write access to this repository.")
        else:
            return True
        return False

    def found(
        self, kind: str, name: str, revision: str | None = None
    ) -> "tuple[Repository, str, dict[str, bytes]] | None":
        """A repository that may be read, with the commit and files of a revision that is there; else it is refused."""
        repository, account = self.hub.repositories.get(f"{kind}/{name}"), self.account()
        readers = (account.name, *account.orgs) if account else ()
        if self.token() and account is None:
            self.refuse(401, "", UNKNOWN)
            return None
        if repository is None or (repository.private and name.partition("/")[0] not in readers):
            self.refuse(401 if account is None else 404, "RepoNotFound", "Repository not found")
            return None
        at = repository.at(revision)
        if at is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, *at

    def whoami(self) -> None:
        account = self.account()
        if account is None:
            self.refuse(401, "", UNKNOWN)
            return
        token: dict[str, Any] = {"displayName": "test", "role": account.role}
        if account.role == "fineGrained":
            scoped = [
                {
                    "entity": {"_id": name, "type": "model" if "/" in name else "user", "name": name},
                    "permissions": ["repo.content.read", "repo.write"],
                }
                for name in account.scopes
            ]
            token["fineGrained"] = {"canReadGatedRepos": True, "global": ["discussion.write"], "scoped": scoped}
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.orgs]
        auth = {"type": "access_token", "accessToken": token}
        self.tell({"type": "user", "id": "1", "name": account.name, "orgs": orgs, "auth": auth})

    # Reading

    def about(self, kind: str, name: str, revision: str | None = None) -> None:
        there = self.found(kind, name, revision)
        if there is None:
            return
        repository, commit, files = there
        card = front_matter(files.get("README.md", b"").decode())
        self.tell(
            {
                "id": name,
                "sha": commit,
                "siblings": [{"rfilename": path} for path in sorted(files)],
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "tags": [],
                "cardData": card,
            }
        )

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        there = self.found(kind, name, revision)
        if there is None:
            return
        inside = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        entries = [entry for entry in self.entries(there) if entry["path"].startswith(inside)]
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            paths = {entry["path"]: entry["path"][len(inside) :] for entry in entries}
            below = sorted({path.partition("/")[0] for path in paths.values() if "/" in path})
            entries = [entry for entry in entries if "/" not in paths[entry["path"]]]
            entries += [{"type": "directory", "path": inside + part, "oid": "0" * 40, "size": 0} for part in below]
        if inside and not entries:
            self.refuse(404, "EntryNotFound", f"{folder} does not exist")
            return
        self.tell(entries)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        there = self.found(kind, name, revision)
        if there is None:
            return
        form = self.headers.get("Content-Type", "") == "application/x-www-form-urlencoded"
        wanted = parse_qs(self.body.decode())["paths"] if form else json.loads(self.body).get("paths", [])
        self.tell([entry for entry in self.entries(there) if entry["path"] in wanted])

    def entries(self, there: "tuple[Repository, str, dict[str, bytes]]") -> list[dict[str, Any]]:
        """What the Hub tells of each file."""
        repository, _, files = there
        found = []
        for path, content in sorted(files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            if path in repository.stored:
                entry["lfs"] = {"oid": hashed(content), "size": len(content), "pointerSize": 134}
            found.append(entry)
        return found

    def file(self, datasets: str | None, name: str, revision: str, path: str) -> None:
        there = self.found("datasets" if datasets else "models", name, revision)
        if there is None:
            return
        repository, commit, files = there
        if repository.gated and self.account() is None:
            self.refuse(401, "GatedRepo", "Access to this repository is restricted")
        elif path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        elif path in repository.stored:
            oid, size = hashed(files[path]), str(len(files[path]))
            self.hub.objects[oid] = files[path]
            told = {"X-Repo-Commit": commit, "X-Linked-ETag": f'"{oid}"', "X-Linked-Size": size}
            self.answer(302, b"", told | {"Location": f"{self.hub.storage}/storage/{oid}"})
        else:
            self.content(files[path], {"ETag": f'"{git_hash(files[path])}"', "X-Repo-Commit": commit})

    def content(self, content: bytes, headers: dict[str, str]) -> None:
        """Answers with a file, or the part of it that is asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.answer(200, content, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        told = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self.answer(206, content[start : end + 1], headers | told)

    # Writing

    def create(self) -> None:
        asked = json.loads(self.body)
        account = self.account()
        name = f"{asked.get('organization') or (account.name if account else '')}/{asked['name']}"
        kind = "datasets" if asked.get("type") == "dataset" else "models"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if not self.may_write(name):
            return
        if f"{kind}/{name}" in self.hub.repositories:
            body = json.dumps({"error": f"You already created this {kind[:-1]} repo", "url": url})
            self.answer(409, body.encode(), {"Content-Type": "application/json"})
            return
        self.hub.create(f"{kind}/{name}", asked.get("visibility") == "private" or bool(asked.get("private")))
        self.tell({"url": url, "name": name, "id": name})

    def validate_card(self) -> None:
        """Takes what the Hub takes at the head of a card: YAML with names of repositories where it wants them."""
        card = front_matter(json.loads(self.body)["content"])
        errors = [] if card is not None else ["not YAML"]
        for field in NAMES_IN_CARDS:
            values = (card or {}).get(field) or []
            for value in values if isinstance(values, list) else [values]:
                if not re.fullmatch(NAME, str(value)):
                    errors.append(f'"{field}" with value "{value}" is not valid. Use an id from https://hf.co.')
        for model in (card or {}).get("model-index") or []:
            for result in model["results"]:
                if not all((result.get("dataset") or {}).get(part) for part in ("name", "type")):
                    errors.append('"model-index[0].results[0].dataset" is required')
        body = json.dumps({"errors": [{"message": text} for text in errors], "warnings": []}).encode()
        self.answer(400 if errors else 200, body, {"Content-Type": "application/json"})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        there = self.found(kind, name, revision)
        if there is None or not self.may_write(name):
            return
        repository, answers = there[0], []
        for file in json.loads(self.body)["files"]:
            path, before = file["path"], repository.files.get(file["path"])
            mode = "lfs" if path.endswith(STORED) or file["size"] > 10_000_000 else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if before is not None:
                answer["oid"] = hashed(before) if path in repository.stored else git_hash(before)
            answers.append(answer)
        self.tell({"files": answers, "commitOid": repository.commit})

    def batch(self, datasets: str | None, name: str) -> None:
        if self.found("datasets" if datasets else "models", name) is None or not self.may_write(name):
            return
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            if oid in self.hub.objects:
                answers.append(wanted)
                continue
            href = f"{self.hub.storage}/storage/{oid}"
            upload: dict[str, Any] = {"href": href}
            if size > self.hub.part_size:
                count = -(-size // self.hub.part_size)
                urls = {f"{part:05d}": f"{href}/{part}" for part in range(1, count + 1)}
                upload = {
                    "href": f"{self.hub.url}/complete/{oid}",
                    "header": {"chunk_size": str(self.hub.part_size), **urls},
                }
            prefix = datasets or ""
            verify = {"href": f"{self.hub.url}/{prefix}{name}.git/info/lfs/objects/verify"}
            answers.append(wanted | {"actions": {"upload": upload, "verify": verify}})
        self.tell({"transfer": "basic", "objects": answers})

    def store(self, oid: str, part: str | None) -> None:
        if self.headers.get("Authorization"):
            self.refuse(400, "", "Only one auth mechanism allowed")
        elif part:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
            self.answer(200, b"", {"ETag": f'"{part}"'})
        elif hashed(self.body) != oid:
            self.refuse(400, "", "the content has another hash")
        else:
            self.hub.objects[oid] = self.body
            self.answer(200, b"")

    def complete(self, oid: str) -> None:
        parts = self.hub.parts[oid]
        content = b"".join(parts[part["partNumber"]] for part in json.loads(self.body)["parts"])
        if hashed(content) != oid:
            self.refuse(400, "", "the content has another hash")
            return
        self.hub.objects[oid] = content
        self.tell({"success": True})

    def verify(self, datasets: str | None, name: str) -> None:
        if self.may_write(name):
            there = json.loads(self.body)["oid"] in self.hub.objects
            self.answer(200 if there else 404, b"{}")

    def stored(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            self.refuse(400, "", "Only one auth mechanism allowed")
        else:
            self.content(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def commit(self, kind: str, name: str, revision: str) -> None:
        there = self.found(kind, name, revision)
        if there is None or not self.may_write(name):
            return
        repository, files, message = there[0], dict(there[0].files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit", repository.commit) != repository.commit:
                        self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
                        return
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    repository.stored.discard(value["path"])
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        self.refuse(400, "", f"the file {value['path']} was not uploaded")
                        return
                    files[value["path"]] = self.hub.objects[value["oid"]]
                    repository.stored.add(value["path"])
                case "deletedFile":
                    del files[value["path"]]
        repository.replace(files, message)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}/commit/{repository.commit}"
        self.tell({"success": True, "commitUrl": url, "commitOid": repository.commit})

    # Answers

    def tell(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Message": message, "Content-Type": "application/json"} | (headers or {})
        self.answer(status, json.dumps({"error": message}).encode(), told | ({"X-Error-Code": code} if code else {}))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.silent:
            return
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


KIND = r"/api/(models|datasets)"
LFS = rf"/(datasets/)?({NAME})\.git/info/lfs/objects"
ROUTES: tuple[tuple[str, Any], ...] = (
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate_card),
    (rf"POST {KIND}/({NAME})/preupload/([^/]+)", Handler.preupload),
    (rf"POST {KIND}/({NAME})/commit/([^/]+)", Handler.commit),
    (rf"POST {KIND}/({NAME})/paths-info/([^/]+)", Handler.paths_info),
    (rf"GET {KIND}/({NAME})/tree/([^/]+)(/.*)?", Handler.tree),
    (rf"GET {KIND}/({NAME})/revision/([^/]+)", Handler.about),
    (rf"GET {KIND}/({NAME})", Handler.about),
    (rf"POST {LFS}/batch", Handler.batch),
    (rf"POST {LFS}/verify", Handler.verify),
    (r"PUT /storage/(\w+)(?:/(\d+))?", Handler.store),
    (r"(?:GET|HEAD) /storage/(\w+)", Handler.stored),
    (r"POST /complete/(\w+)", Handler.complete),
    (r"(?:GET|HEAD) /(datasets/)?(.+?)/resolve/([^/]+)/(.+)", Handler.file),
)


def front_matter(text: str) -> dict[str, Any] | None:
    """What stands between the lines `---` at the head of a card; empty where there is none, None if it is not YAML."""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        return yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return None


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
