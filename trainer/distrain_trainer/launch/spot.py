"""Notices that this machine is about to be taken away, which the metadata servers of the clouds give: they are asked
from a thread of the supervisor, and a notice counts as SIGTERM.

AWS gives one 2 minutes before (spot/instance-action, by IMDSv2), Google Cloud (instance/preempted) and Azure (Preempt
among scheduledevents) 30 s before. AWS' rebalance recommendations are no notices: such a machine may stay for days.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from distrain_trainer.console import warn
from distrain_trainer.settings.sections import Cloud

EVERY = 2.0
"""Seconds between two questions."""
ANSWER = 5.0
"""Seconds that a server has to answer."""
TOKEN_SECONDS = 6 * 3600
"""How long AWS' token holds."""
CHANGE_SECONDS = 60
"""How long Google's server waits for a change before it answers."""
FIRST_SECONDS = 150.0
"""Azure takes up to two minutes for the first answer to a machine."""
ADDRESSES = {
    "aws": ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254"),
    "gcp": ("GCE_METADATA_HOST", "http://169.254.169.254"),
    "azure": ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://169.254.169.254"),
}
"""The variable in which each cloud's own libraries take another address of its server, and the usual one."""
_direct = build_opener(ProxyHandler({}))


@dataclass
class Aws:
    """EC2's server, version 2: questions carry a token. address: its URL."""

    address: str
    _token: str = ""

    def notice(self) -> str | None:
        """What will become of this machine, None while nothing will. Raises OSError, ValueError, KeyError."""
        if not self._token:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            self._token, _ = ask(f"{self.address}/latest/api/token", wanted, method="PUT")
        path = f"{self.address}/latest/meta-data/spot/instance-action"
        try:
            content, _ = ask(path, {"X-aws-ec2-metadata-token": self._token})
        except HTTPError as error:
            if error.code == 401:  # the token is over
                self._token = ""
            if error.code in (401, 404):
                return None
            raise
        found = json.loads(content)
        return f"AWS will {found['action']} this instance at {found['time']}"


@dataclass
class Gcp:
    """Google Cloud's server, which answers when something has changed. address: its URL."""

    address: str
    _seen: str = "0"

    def notice(self) -> str | None:
        """What will become of this machine, None while nothing will. Raises OSError."""
        query = f"wait_for_change=true&timeout_sec={CHANGE_SECONDS}&last_etag={self._seen}"
        path = f"{self.address}/computeMetadata/v1/instance/preempted?{query}"
        content, headers = ask(path, {"Metadata-Flavor": "Google"}, seconds=CHANGE_SECONDS + ANSWER)
        self._seen = headers.get("ETag") or "0"
        return "Google Cloud preempts this instance" if content.strip() == "TRUE" else None


@dataclass
class Azure:
    """Azure's server. Its events may be those of other machines of a set. address: its URL."""

    address: str
    _name: str = ""

    def notice(self) -> str | None:
        """What will become of this machine, None while nothing will. Raises OSError, ValueError, KeyError."""
        own = {"Metadata": "true"}
        if not self._name:
            path = f"{self.address}/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            self._name = ask(path, own)[0].strip()
        path = f"{self.address}/metadata/scheduledevents?api-version=2020-07-01"
        for event in json.loads(ask(path, own, seconds=FIRST_SECONDS)[0])["Events"]:
            if event["EventType"] == "Preempt" and self._name in event["Resources"]:
                return f"Azure evicts this instance, not before {event['NotBefore'] or 'now'}"
        return None


def ask(url: str, headers: Mapping[str, str], method: str = "GET", seconds: float = ANSWER) -> tuple[str, Message]:
    """The content and the headers of an answer, past any proxy. Raises OSError, of which HTTPError is one."""
    with _direct.open(Request(url, headers=dict(headers), method=method), timeout=seconds) as answer:
        return answer.read().decode(), answer.headers


def server(cloud: Cloud, environment: Mapping[str, str] = os.environ) -> Aws | Gcp | Azure:
    """The metadata server of a cloud, as its own libraries find it."""
    name, usual = ADDRESSES[cloud]
    address = environment.get(name) or usual
    address = address if "://" in address else f"http://{address}"
    servers: dict[Cloud, type[Aws] | type[Gcp] | type[Azure]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}
    return servers[cloud](address.rstrip("/"))


def watch(cloud: Cloud, leave: Callable[[], None]) -> None:
    """Asks until there is a notice, says so and calls `leave`. A server that does not answer is asked again."""
    asked, told = server(cloud), False
    while True:
        try:
            notice = asked.notice()
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            if not told:
                warn(f"the metadata server {asked.address} gives no notices of {cloud} ({error}); it is asked again")
            told, notice = True, None
        if notice:
            warn(f"{notice}: this node saves and leaves, as after SIGTERM")
            leave()
            return
        time.sleep(EVERY)


def heed_notices(cloud: Cloud) -> None:
    """Asks this process to leave when this machine is about to be taken away."""
    threading.Thread(target=watch, args=(cloud, lambda: os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
