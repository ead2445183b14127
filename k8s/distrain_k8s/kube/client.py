"""Asks the API server, and goes on asking while that may help.

Objects stay the JSON that they come as: typed models take 28 seconds for the 8,192 pods that raw JSON takes half a
second for. Every request has a time-out for connecting and for each read, and a deadline over all of its tries. Tries
follow each other with exponential backoff, or as the server's Retry-After says.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

from distrain_k8s.errors import ClientError, ConnectionLost, Unreachable
from distrain_k8s.installed import need
from distrain_k8s.kube.faults import PASSING, fault_of, why
from distrain_k8s.kube.identity import Identity, read_identity
from distrain_k8s.kube.official import official
from distrain_k8s.kube.resources import Resource

Object = dict[str, Any]
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between two tries: the first pause, doubled each time up to the longest."""
SAID_AFTER = 3.0
"""Seconds without an answer before the person is told."""
CHUNK = 1000
RESTARTS_OF_A_LIST = 3


@dataclass(frozen=True)
class Patience:
    """Seconds. connect: until there is a connection. read: between two pieces of an answer. deadline: over all tries,
    after which none begins."""

    connect: float = 5.0
    read: float = 20.0
    deadline: float = 15.0


PATIENCE = Patience()


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    resource: Resource
    namespace: str | None = None
    name: str | None = None
    query: Mapping[str, Any] | None = None
    body: Any = None
    content_type: str = "application/json"
    repeat: bool = True

    @property
    def url(self) -> str:
        words = {key: _text(value) for key, value in (self.query or {}).items() if value not in (None, "")}
        return self.path + (f"?{urlencode(words)}" if words else "")


class Api:
    """One cluster, seen as one user, with a namespace for whatever names none. May be used by several threads.

    say: told one sentence when the cluster has not answered for a while. calls: requests that were sent so far.
    """

    def __init__(
        self,
        identity: Identity,
        reread: Callable[[], Identity] | None = None,
        patience: Patience = PATIENCE,
        say: Callable[[str], None] | None = None,
    ) -> None:
        need("urllib3")
        self.patience, self.say, self.calls = patience, say, 0
        self._reread = reread
        self._lock = threading.Lock()
        self._take(identity)

    @property
    def server(self) -> str:
        """Its address, such as https://10.0.0.1:6443."""
        return str(self.identity.configuration.host)

    def patient(self, deadline: float) -> "Api":
        """The same connections with another deadline, in seconds."""
        other: Api = object.__new__(Api)
        other.__dict__ = self.__dict__ | {"patience": replace(self.patience, deadline=deadline)}
        return other

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    # What is asked

    def get(self, resource: Resource, name: str, namespace: str | None = None, part: str | None = None) -> Object:
        """One object, or a part of it. Raises NotFound, Forbidden and the other errors of a cluster."""
        space = self._namespace(resource, namespace)
        found: Object = self._json(_Request("GET", resource.path(space, name, part), resource, space, name))
        return found

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        everywhere: bool = False,
        chunk: int = CHUNK,
    ) -> list[Object]:
        """All objects of a kind in a namespace, or (everywhere) in all, read in chunks.

        labels, fields: selectors. A list that expires while it is read (410) is read again. Raises NotServed where the
        cluster has no such kind.
        """
        space = None if everywhere else self._namespace(resource, namespace)
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": chunk}
        request = _Request("GET", resource.path(space), resource, space, query=query)
        for restart in range(RESTARTS_OF_A_LIST + 1):
            if restart == RESTARTS_OF_A_LIST:
                request = replace(request, query={**query, "limit": 0})
            items: list[Object] = []
            following: str | None = None
            while True:
                answer = self._answer(replace(request, query={**(request.query or {}), "continue": following}))
                if answer.status == 410:
                    break
                page = self._read(request, answer)
                items += page.get("items") or []
                following = (page.get("metadata") or {}).get("continue")
                if not following:
                    return items
        raise Unreachable(f"the list of {resource.full_name} expires faster than it can be read; try again later")

    def create(self, resource: Resource, body: Object, namespace: str | None = None, dry_run: bool = False) -> Object:
        """Makes an object. dry_run: only asks whether the server would take it.

        Raises Conflict where there is one of that name; ConnectionLost where it is not known whether it was made.
        """
        space = self._namespace(resource, namespace)
        query = {"dryRun": "All"} if dry_run else None
        name = body.get("metadata", {}).get("name")
        request = _Request("POST", resource.path(space), resource, space, name, query, body, repeat=dry_run)
        made: Object = self._json(request)
        return made

    def patch(
        self, resource: Resource, name: str, body: Object, namespace: str | None = None, dry_run: bool = False
    ) -> Object:
        """Changes an object: a JSON merge patch."""
        space = self._namespace(resource, namespace)
        query = {"dryRun": "All"} if dry_run else None
        kind = "application/merge-patch+json"
        changed: Object = self._json(
            _Request("PATCH", resource.path(space, name), resource, space, name, query, body, kind)
        )
        return changed

    def apply(self, resource: Resource, body: Object, namespace: str | None = None, dry_run: bool = False) -> Object:
        """Server-side apply, as the field manager `distrain`."""
        space, name = self._namespace(resource, namespace), body["metadata"]["name"]
        query = {"fieldManager": "distrain", "force": "true", "dryRun": "All" if dry_run else None}
        kind = "application/apply-patch+yaml"
        applied: Object = self._json(
            _Request("PATCH", resource.path(space, name), resource, space, name, query, body, kind)
        )
        return applied

    def delete(self, resource: Resource, name: str, namespace: str | None = None, grace: int | None = None) -> None:
        """Removes an object. grace: seconds, None for its own. Raises NotFound."""
        space = self._namespace(resource, namespace)
        body = {"propagationPolicy": "Background"} | ({"gracePeriodSeconds": grace} if grace is not None else {})
        self._json(_Request("DELETE", resource.path(space, name), resource, space, name, body=body))

    def version(self) -> Object:
        """The API server's version: `gitVersion` and more."""
        found: Object = self._json(_Request("GET", "/version", Resource("version", "version")))
        return found

    @contextmanager
    def stream(
        self,
        resource: Resource,
        name: str,
        part: str,
        query: Mapping[str, Any],
        read: float,
        namespace: str | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """An answer that comes piece by piece, such as a log, as an iterator of lines without their ends.

        read: seconds of silence after which the connection counts as lost. The iterator raises ConnectionLost.
        """
        space = self._namespace(resource, namespace)
        request = _Request("GET", resource.path(space, name, part), resource, space, name, query)
        answer = self._answer(request, stream=True, read=read)
        with closing(answer):
            if answer.status >= 300:
                raise fault_of(answer.status, answer.read(), resource, space, name)
            yield self._lines(answer)

    # How it is asked

    def _take(self, identity: Identity) -> None:
        configuration = identity.configuration
        configuration.retries = False
        self.identity = identity
        self.context, self.namespace = identity.context, identity.namespace
        self._pool = official().rest.RESTClientObject(configuration).pool_manager

    def _namespace(self, resource: Resource, namespace: str | None) -> str | None:
        return (namespace or self.namespace) if resource.namespaced else None

    def _json(self, request: _Request) -> Any:
        return self._read(request, self._answer(request))

    def _read(self, request: _Request, answer: Any) -> Any:
        if answer.status >= 300:
            raise fault_of(answer.status, answer.data, request.resource, request.namespace, request.name)
        try:
            return json.loads(answer.data)
        except ValueError:
            raise ClientError(f"{self.server} does not answer as an API server does; check the kubeconfig") from None

    def _answer(self, request: _Request, stream: bool = False, read: float | None = None) -> Any:
        """The answer to a request, repeated until it is one or the deadline has passed."""
        from urllib3.exceptions import HTTPError, NewConnectionError

        started = time.monotonic()
        pause, renewed, told = FIRST_PAUSE, False, False
        while True:
            asked_to_wait: float | None = None
            try:
                answer = self._send(request, stream, read)
            except HTTPError as error:
                reason = why(error)
                if "certificate" in reason:
                    raise self._unreachable(reason, started) from None
                if not request.repeat and not isinstance(_root(error), NewConnectionError):
                    raise ConnectionLost(
                        f"the connection to {self.server} broke ({reason}) after it was asked to make "
                        f"{request.resource.kind} {request.name}; whether it did is not known"
                    ) from None
            else:
                if answer.status == 401 and not renewed and self._reread:
                    renewed = True
                    answer.release_conn()
                    with self._lock:
                        namespace = self.namespace
                        self._take(self._reread())
                        self.namespace = namespace
                    continue
                if answer.status not in PASSING or (not request.repeat and answer.status not in (429, 503)):
                    return answer
                reason = f"HTTP {answer.status}"
                asked_to_wait = _seconds(answer.headers.get("Retry-After"))
                body = answer.read() if stream else answer.data
                if time.monotonic() - started + (asked_to_wait or pause) > self.patience.deadline:
                    fault = fault_of(answer.status, body, request.resource, request.namespace, request.name)
                    raise fault
            spent = time.monotonic() - started
            wait = asked_to_wait if asked_to_wait is not None else pause * random.uniform(0.75, 1.25)
            if spent + wait > self.patience.deadline:
                raise self._unreachable(reason, started)
            if spent > SAID_AFTER and not told and self.say:
                told = True
                self.say(f"{self.server} does not answer ({reason}); trying again")
            time.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _send(self, request: _Request, stream: bool, read: float | None) -> Any:
        from urllib3 import Timeout

        headers = {
            "Accept": "application/json" if not stream else "*/*",
            "User-Agent": f"distrain/{_version()}",
            "Accept-Encoding": "gzip" if not stream else "identity",
        }
        if (key := self.identity.configuration.get_api_key_with_prefix("authorization")) is not None:
            headers["Authorization"] = key
        body = None
        if request.body is not None:
            headers["Content-Type"] = request.content_type
            body = json.dumps(request.body).encode()
        self.calls += 1
        return self._pool.request(
            request.method,
            self.server + request.url,
            headers=headers,
            body=body,
            retries=False,
            redirect=False,
            preload_content=not stream,
            timeout=Timeout(connect=self.patience.connect, read=read or self.patience.read),
        )

    def _lines(self, answer: Any) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            for piece in answer.stream(1 << 16):
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
        except (HTTPError, OSError) as error:
            raise ConnectionLost(f"the connection to {self.server} broke ({why(error)})") from None
        if rest:
            yield rest

    def _unreachable(self, reason: str, started: float) -> Unreachable:
        seconds = time.monotonic() - started
        after = f" in {seconds:.0f} s" if seconds >= 1 else ""
        context = f"the context {self.context}" if self.context else "this pod's network"
        return Unreachable(
            f"the API server at {self.server} does not answer{after}: {reason}; check {context}, with "
            "kubectl cluster-info"
        )


def connect(
    context: str | None = None,
    namespace: str | None = None,
    kubeconfig: str | None = None,
    patience: Patience = PATIENCE,
    say: Callable[[str], None] | None = None,
) -> Api:
    """The cluster that kubectl would take, with the same options. Raises KubeconfigError and InstallationError."""
    read = partial(read_identity, context, kubeconfig)
    api = Api(read(), read, patience, say)
    api.namespace = namespace or api.namespace
    return api


def _root(error: BaseException) -> BaseException:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else error


def _seconds(text: str | None) -> float | None:
    """The Retry-After of an answer, where it is a number."""
    try:
        return max(float(text), 0.0) if text else None
    except ValueError:
        return None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _version() -> str:
    return version("distrain")
