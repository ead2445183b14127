"""A registry of our own beside the nodes, through which a changed image reaches them in seconds."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

from cluster import daemon, engine, tools
from cluster.shell import CACHE

PORT = 5001
NAME = f"localhost:{PORT}"
"""What images in it are called, on this machine and on the nodes."""
STORE = CACHE / "registry"
DAEMONS = ("registry-for-machine", "registry-for-nodes")
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def start(nodes: list[str]) -> None:
    """Serves one store on this machine's loopback address and on the gateway of the nodes' network."""
    gateway = engine.gateway("kind")
    for name, host in zip(DAEMONS, ("127.0.0.1", gateway), strict=True):
        serve(name, f"{host}:{PORT}")
    folder = f"/etc/containerd/certs.d/{NAME}"
    server = f"http://{gateway}:{PORT}"  # also where the mirror does not have an image: nothing listens on the nodes
    mirror = f'server = "{server}"\n[host."{server}"]\n  capabilities = ["pull", "resolve"]\n'
    script = f"mkdir -p {folder}\ncat >{folder}/hosts.toml <<'END'\n{mirror}END\n"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: engine.execute(node, script), nodes))


def serve(name: str, address: str) -> None:
    configuration = daemon.FOLDER / f"{name}.yaml"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(STORE)}},
        "http": {"addr": address},
    }
    configuration.write_text(json.dumps(settings))
    command = [str(tools.build("registry")), "serve", str(configuration)]
    daemon.start(name, command, f"http://{address}/v2/")


def remove() -> None:
    for name in DAEMONS:
        daemon.stop(name)
    shutil.rmtree(STORE, ignore_errors=True)


def holds(image: str) -> bool:
    name, tag = image.removeprefix(f"{NAME}/").split(":")
    return daemon.answers(f"http://127.0.0.1:{PORT}/v2/{name}/manifests/{tag}", accept=MANIFESTS)


def push(image: str) -> str:
    """Puts an image of this machine into the registry; the answer is what pods call it."""
    target = f"{NAME}/{image.rsplit('/', 1)[-1]}"
    engine.call("tag", image, target)
    options = ["--tls-verify=false"] if engine.name() == "podman" else []
    engine.call("push", *options, target, timeout=900)
    return target
