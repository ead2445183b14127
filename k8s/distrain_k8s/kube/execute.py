"""Runs a command in a pod, over a WebSocket, as `kubectl exec` does."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlparse

from distrain_k8s.errors import ClientError, ConnectionLost
from distrain_k8s.installed import need
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.faults import fault_of
from distrain_k8s.kube.resources import PODS

STDOUT, STDERR, RESULT = 1, 2, 3
"""Channels of the protocol v4.channel.k8s.io: the first byte of each message."""
SILENCE = 60
"""Seconds without a byte after which the connection counts as lost."""


@dataclass(frozen=True)
class Answer:
    """How a command ended. output: empty where it was taken piece by piece."""

    code: int
    output: bytes
    errors: bytes

    def error(self) -> str:
        """The last line that it wrote to stderr."""
        lines = self.errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.code}"


def execute(
    api: Api, pod: str, command: list[str], take: Callable[[bytes], None] | None = None, limit: float = SILENCE
) -> Answer:
    """Runs a command. take: told each piece of stdout, which is then not kept. limit: seconds of silence.

    Raises ConnectionLost where the connection breaks before the command has ended.
    """
    need("websocket")
    from websocket import ABNF, WebSocketException

    output, errors = bytearray(), bytearray()
    keep = take or output.extend
    socket = _connect(api, pod, command, limit)
    try:
        while True:
            code, frame = socket.recv_data_frame(True)
            if code == ABNF.OPCODE_CLOSE:
                raise ConnectionLost(f"the connection to the pod {pod} was closed before its command had ended")
            if code not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or len(frame.data) < 1:
                continue
            channel, data = frame.data[0], frame.data[1:]
            if channel == STDOUT and data:
                keep(bytes(data))
            elif channel == STDERR:
                errors.extend(data)
            elif channel == RESULT:
                return Answer(_code(data), bytes(output), bytes(errors))
    except (WebSocketException, OSError) as error:
        raise ConnectionLost(f"the connection to the pod {pod} broke ({error or type(error).__name__})") from None
    finally:
        socket.close()


def _code(result: bytes) -> int:
    """The exit code in the Status that ends a command."""
    status = json.loads(result)
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise ClientError(f"the command could not be run in the pod: {status.get('message', 'no reason given')}")


def _connect(api: Api, pod: str, command: list[str], limit: float) -> Any:
    """A WebSocket to `exec` of the pod, as the API's own configuration says how to connect."""
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    configuration = api.identity.configuration
    path = PODS.path(api.namespace, pod, "exec")
    query = urlencode([("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)])
    address = urlparse(api.server)
    url = address._replace(scheme="wss" if address.scheme == "https" else "ws", path=address.path + path, query=query)
    headers = []
    if (key := configuration.get_api_key_with_prefix("authorization")) is not None:
        headers.append(f"Authorization: {key}")
    socket = WebSocket(sslopt=_tls(configuration), skip_utf8_validation=True)
    socket.settimeout(limit)
    try:
        socket.connect(  # type: ignore[no-untyped-call]
            url.geturl(),
            header=headers,
            subprotocols=["v4.channel.k8s.io"],
            suppress_origin=True,
            **_proxy(configuration),
        )
    except WebSocketBadStatusException as error:
        raise fault_of(error.status_code, error.resp_body or b"", PODS, api.namespace, pod) from None
    except (WebSocketException, OSError) as error:
        raise ConnectionLost(f"the pod {pod} cannot be reached through {api.server} ({error})") from None
    return socket


def _tls(configuration: Any) -> dict[str, Any]:
    import ssl

    if not configuration.verify_ssl:
        found: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    else:
        found = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": configuration.ssl_ca_cert}
    found |= {"certfile": configuration.cert_file, "keyfile": configuration.key_file}
    if getattr(configuration, "tls_server_name", None):
        found["server_hostname"] = configuration.tls_server_name
    return {name: value for name, value in found.items() if value is not None}


def _proxy(configuration: Any) -> dict[str, Any]:
    if not configuration.proxy:
        return {}
    proxy = urlparse(configuration.proxy)
    found: dict[str, Any] = {"http_proxy_host": proxy.hostname, "http_proxy_port": proxy.port, "proxy_type": "http"}
    if configuration.no_proxy:
        found["http_no_proxy"] = configuration.no_proxy.split(",")
    return found
