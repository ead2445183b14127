"""A local server in place of the Hub: repositories, accounts and faults. What it answers is in `hub_server`.

It speaks the Hub's protocol to the real huggingface_hub, datasets and transformers, for reading and for writing. Files
are stored by hash on another host name, as the Hub's are, and a token that is sent there is refused.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Literal

from hub_server import handler_of

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
"""Of an account that may write."""


@dataclass
class Repository:
    """A model or data set. files: of the newest commit. gated and private answer as the Hub does without a token.
    stored: paths of files that are stored by their hash. messages, history: of the commits that were made here, and
    their files."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    stored: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    history: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def commit(self) -> str:
        """40 hex digits that follow from the files."""
        return commit_of(self.files)

    def at(self, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files, None where there is no such one."""
        if revision in (None, "main", self.commit):
            return self.commit, self.files
        return next(((revision, files) for files in self.history if commit_of(files) == revision), None)

    def replace(self, files: dict[str, bytes], message: str) -> None:
        """Makes a commit of these files."""
        self.files = files
        self.messages.append(message)
        self.history.append(files)


def commit_of(files: dict[str, bytes]) -> str:
    """40 hex digits that follow from the files."""
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class Account:
    """Whose a token is. orgs: that it is a member of. role: of the token. scopes: of a fine-grained one, names of
    accounts and repositories that it may write to."""

    name: str = "me"
    orgs: tuple[str, ...] = ()
    role: Literal["read", "write", "fineGrained"] = "write"
    scopes: tuple[str, ...] = ()


@dataclass
class Fault:
    """What happens to requests, `METHOD /path`, in which `pattern` is found, for so many times.

    does: the status that is answered; reset: the connection is closed at once; lost: the request is carried out and its
    answer is lost; hang: nothing happens until `Hub.released` is set. headers: of the answer.
    """

    pattern: str
    does: int | Literal["reset", "lost", "hang"]
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hub:
    """The running service. requests: method and path of each request so far. bodies: what came with them. answers:
    statuses with which it answers everything while there is one, as when it is overloaded. objects: content of stored
    files, by the hash of it. part_size: bytes from which on they are taken in parts."""

    url: str
    repositories: dict[str, Repository]
    accounts: dict[str, Account]
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    released: Event = field(default_factory=Event)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    part_size: int = 1_000_000

    @property
    def storage(self) -> str:
        """Where files are stored: the same machine under another name."""
        return self.url.replace("127.0.0.1", "localhost")

    def create(self, key: str, private: bool) -> None:
        """Makes a repository as the Hub does. key: `models/owner/name`."""
        self.repositories[key] = Repository({".gitattributes": b"\n"}, private=private)

    def fault(self, request: str) -> Fault | None:
        """The fault that this request meets, which is then used up once."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables for a process that talks to this Hub and keeps its caches in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        told = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return kept | told | {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})


@contextmanager
def serve(
    repositories: dict[str, Repository] | None = None, accounts: dict[str, Account] | None = None
) -> Iterator[Hub]:
    """Serves `models/owner/name` and `datasets/owner/name` on a free port of this machine. accounts: by token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: None)  # type: ignore[arg-type]
    hub = Hub(
        f"http://127.0.0.1:{server.server_port}",
        {} if repositories is None else repositories,
        {TOKEN: Account()} if accounts is None else accounts,
    )
    server.RequestHandlerClass = handler_of(hub)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
