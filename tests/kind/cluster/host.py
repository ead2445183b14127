"""What the cluster needs of this machine: packages, and settings of the kernel and of podman."""

import os
import re
import resource
import shutil
from pathlib import Path

from cluster import engine
from cluster.shell import Failure, run, step

PODMAN = ("podman", "runc", "conmon", "netavark", "aardvark-dns", "iptables", "iproute2")
CONTAINERS_CONF = Path("/etc/containers/containers.conf")
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
BRIDGE_IPTABLES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
PID_MAX = Path("/proc/sys/kernel/pid_max")
ENGINE_TABLE = '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
WRITTEN_HERE = re.compile(r"\[containers\]\ndefault_ulimits = \[[^\]]*\]\n" + re.escape(ENGINE_TABLE))


def prepare() -> None:
    if os.geteuid():
        raise Failure("the cluster mounts a folder and changes kernel settings: run this as root")
    if engine.find() != "docker":
        if not shutil.which("podman"):
            install(*PODMAN)
        configure_podman()
        let_pods_cross_bridges()
    Path("/lib/modules").mkdir(exist_ok=True)  # kind mounts it
    if int(INOTIFY_INSTANCES.read_text()) < 1024:  # three kubelets take more than the usual 128
        INOTIFY_INSTANCES.write_text("1024")


def install(*packages: str) -> None:
    if not shutil.which("apt-get"):
        raise Failure(f"apt-get is not there to install {', '.join(packages)}: install them by hand")
    with step(f"installing {', '.join(packages)}"):
        run("apt-get", "update", "-qq", timeout=300)
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, timeout=900, env=quiet)


def configure_podman() -> None:
    """Without systemd podman needs other managers than its defaults, and no limit above the machine's own."""
    if Path("/run/systemd/system").exists():
        return
    write_containers_conf(CONTAINERS_CONF)
    policy = CONTAINERS_CONF.with_name("policy.json")
    if not policy.exists():
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')


def write_containers_conf(file: Path) -> None:
    """Writes podman's configuration, or corrects one that was written here; any other is left as it is."""
    if file.exists() and not WRITTEN_HERE.fullmatch(file.read_text()):
        return
    limits = [f'"{name}={limit}:{limit}"' for name, limit in process_limits().items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"[containers]\ndefault_ulimits = [{', '.join(limits)}]\n{ENGINE_TABLE}")


def process_limits() -> dict[str, int]:
    """Name -> the largest limit that a container can be given: this process's hard limit, and for nproc also the
    kernel's pid_max, to which podman lowers its own limit before it starts a container."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = int(PID_MAX.read_text())
    return {"nofile": files, "nproc": most if processes == resource.RLIM_INFINITY else min(processes, most)}


def let_pods_cross_bridges() -> None:
    """podman masquerades what iptables sees of a bridge, and pods of two nodes would not meet."""
    if BRIDGE_IPTABLES.exists():
        BRIDGE_IPTABLES.write_text("0")
