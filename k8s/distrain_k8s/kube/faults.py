"""What the API server or the network answered, as one of our errors."""

import json
import re
from typing import Any

from distrain_k8s.errors import (
    ClientError,
    Conflict,
    Forbidden,
    NotFound,
    NotServed,
    Rejected,
    Unauthorized,
    Unreachable,
    WebhookDown,
)
from distrain_k8s.kube.resources import Resource

PASSING = frozenset({429, 500, 502, 503, 504})
"""Codes after which the same request may succeed."""
DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
WEBHOOK = re.compile(r'failed calling webhook "(?P<name>[^"]+)"[^:]*: (?P<why>.*)', re.DOTALL)


def fault_of(code: int, body: bytes, resource: Resource, namespace: str | None, name: str | None) -> ClientError:
    """The error behind an answer that is none of 2xx. resource, namespace, name: what was asked for."""
    status = _status(body)
    message = " ".join(str(status.get("message", "")).split()) or f"HTTP {code}"
    if code == 401:
        return Unauthorized(
            "the API server does not accept our credentials; log in again (kubectl get pods shows whether that worked)"
        )
    if code == 403 and (denied := DENIED.search(message)):
        return forbidden(denied)
    if code == 404:
        return _missing(status, message, resource, namespace, name)
    if code == 409:
        return Conflict(message)
    if found := WEBHOOK.search(message):
        return WebhookDown(
            f"the admission webhook {found['name']} does not answer ({found['why']}); look at the pods behind it: "
            "kubectl get pods -A"
        )
    if code in PASSING:
        return Unreachable(f"the API server answers {code} ({message}); try again later")
    return Rejected(f"the API server refuses this: {message}", str(status.get("reason", "")))


def forbidden(denied: re.Match[str]) -> Forbidden:
    """What we may not do, from the API server's own sentence."""
    resource = f"{denied['resource']}.{denied['group']}" if denied["group"] else denied["resource"]
    where = f"in the namespace {denied['namespace']}" if denied["namespace"] else "in the whole cluster"
    option = f" -n {denied['namespace']}" if denied["namespace"] else ""
    return Forbidden(
        f"{denied['user']} may not {denied['verb']} {resource} {where}; ask for a Role that allows it "
        f"(docs/client.md), and check with kubectl auth can-i {denied['verb']} {resource}{option}",
        denied["verb"],
        resource,
        denied["namespace"] or "",
    )


def _missing(
    status: dict[str, Any], message: str, resource: Resource, namespace: str | None, name: str | None
) -> ClientError:
    if status.get("kind") != "Status" or "could not find the requested resource" in message:
        needs = f"; {resource.installed_by} is not installed there" if resource.installed_by else ""
        return NotServed(f"the cluster does not know {resource.full_name}{needs}", resource.kind, name or "")
    found = (status.get("details") or {}).get("name") or name or ""
    where = f" in the namespace {namespace}" if namespace else ""
    if (status.get("details") or {}).get("kind") == "namespaces":
        return NotFound(f"there is no namespace {found}; name another by -n", "Namespace", found)
    return NotFound(f"there is no {resource.kind} {found}{where}", resource.kind, found)


def _status(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {"message": body[:300].decode(errors="replace")}
    return found if isinstance(found, dict) else {}


def why(error: BaseException) -> str:
    """What broke a connection, in a few words."""
    seen: BaseException | None = error
    text = ""
    while seen is not None:
        text = str(seen.args[-1]) if seen.args else type(seen).__name__
        seen = getattr(seen, "reason", None) if isinstance(getattr(seen, "reason", None), BaseException) else None
    for sign, words in _SIGNS:
        if sign in text or sign in str(error):
            return words
    return " ".join(text.split())[:160]


_SIGNS = (
    ("Connection refused", "connection refused"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not one that the kubeconfig trusts"),
    ("Name or service not known", "its name is not known to DNS"),
    ("Temporary failure in name resolution", "its name is not known to DNS"),
    ("nodename nor servname", "its name is not known to DNS"),
    ("No route to host", "no route to it"),
    ("Network is unreachable", "the network is unreachable"),
    ("Connection reset", "it closed the connection"),
    ("Remote end closed", "it closed the connection"),
    ("IncompleteRead", "it closed the connection in the middle of an answer"),
    ("Connection broken", "it closed the connection in the middle of an answer"),
    ("Read timed out", "no answer in time"),
    ("timed out", "no answer in time"),
)
