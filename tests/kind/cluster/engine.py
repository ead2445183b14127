"""docker or podman: images are built with it, and it runs the nodes."""

import contextlib
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cluster.shell import Failure, run


def find() -> str | None:
    """The first that answers within 30 seconds."""
    for engine in ("docker", "podman"):
        if shutil.which(engine):
            with contextlib.suppress(Failure):
                run(engine, "info", timeout=30)
                return engine
    return None


@functools.cache
def name() -> str:
    if found := find():
        return found
    raise Failure("neither docker nor podman answers `info`: start docker, or install podman")


def call(*arguments: str | Path, timeout: float = 120, stdin: str | None = None) -> str:
    return run(name(), *arguments, timeout=timeout, stdin=stdin).stdout


def has_image(tag: str) -> bool:
    return run(name(), "image", "inspect", tag, check=False).returncode == 0


def build(tag: str, dockerfile: str, files: Iterable[Path], timeout: float = 600) -> None:
    """An image from a Dockerfile's text and the files that it copies."""
    with tempfile.TemporaryDirectory(prefix="distrain-image-") as scratch:
        for file in files:
            target = Path(scratch) / file.name
            try:
                os.link(file, target)
            except OSError:
                shutil.copy2(file, target)
        (Path(scratch) / "Dockerfile").write_text(dockerfile)
        call("build", "-q", "-t", tag, scratch, timeout=timeout)


def execute(container: str, script: str, timeout: float = 60) -> str:
    """What a shell script prints inside a container."""
    return call("exec", "-i", container, "sh", "-eu", stdin=script, timeout=timeout)


def gateway(network: str) -> str:
    """The machine's IPv4 address on a network of containers."""
    [described] = json.loads(call("network", "inspect", network))
    ranges = described.get("subnets") or described.get("IPAM", {}).get("Config") or []
    addresses = [item.get("gateway") or item.get("Gateway") or "" for item in ranges]
    for address in addresses:
        if "." in address:
            return address
    raise Failure(f"the network {network} has no IPv4 gateway: remove it with `{name()} network rm {network}`")
