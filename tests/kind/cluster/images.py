"""Small images for the cluster: one program, or a shell."""

import hashlib
from pathlib import Path

from cluster import engine, node_image, published, registry, tools
from cluster.shell import BIN, step

# busybox's own nslookup fails on a list of search domains, and its own shell would call no other
SHELL = f"""FROM {node_image.BASE} AS debian
FROM scratch
COPY --from=debian /bin/busybox /bin/bash-static /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN ["/bin/busybox", "ln", "-sf", "bash-static", "/bin/sh"]
RUN ["/bin/busybox", "rm", "/bin/nslookup"]
COPY nslookup /bin/nslookup
"""


def shell() -> str:
    """An image of a few megabytes with a shell and nslookup, for test pods and the operator's init container."""
    if published.reachable():
        image = published.BUSYBOX
    else:
        image = f"localhost/shell:{hashlib.sha256(SHELL.encode()).hexdigest()[:12]}"
    target = f"{registry.NAME}/{image.rsplit('/', 1)[-1]}"
    if registry.holds(target):
        return target
    if published.reachable():
        with step(f"pulling {image}"):
            engine.call("pull", image, timeout=300)
            return registry.push(image)
    node_image.base()
    tools.build_own("nslookup")
    with step("building the image of a shell"):
        engine.build(image, SHELL, [BIN / "nslookup"])
        return registry.push(image)


def program(name: str, version: str, binary: Path) -> str:
    """An image that holds one static program and starts it."""
    target = f"{registry.NAME}/{name}:{version}"
    if registry.holds(target):
        return target
    with step(f"building the image of {name} {version}"):
        dockerfile = f'FROM scratch\nCOPY {binary.name} /manager\nUSER 65532:65532\nENTRYPOINT ["/manager"]\n'
        engine.build(f"localhost/{name}:{version}", dockerfile, [binary])
        return registry.push(f"localhost/{name}:{version}")
