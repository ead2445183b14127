"""The nodes' image: kind's own where a registry answers, otherwise made of Debian packages and the built programs."""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from cluster import engine, host, published, tools
from cluster.shell import BIN, CACHE, Failure, run, step

SUITE = "bookworm"  # the last whose systemd starts on cgroup v1
PACKAGES = (
    "systemd,systemd-sysv,dbus,containerd,runc,containernetworking-plugins,iptables,ebtables,iproute2,conntrack,"
    "ethtool,socat,kmod,mount,util-linux,procps,ca-certificates,busybox-static,bash-static"
)
UNUSED = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
BASE = f"localhost/distrain-node-base:{SUITE}-{hashlib.sha256(repr((PACKAGES, UNUSED)).encode()).hexdigest()[:12]}"
# kube-proxy needs iptables, and none of what runs containers
KUBE_PROXY = f"""FROM {BASE} AS debian
RUN rm -rf /usr/bin/containerd* /usr/bin/ctr /usr/sbin/runc /usr/lib/cni
FROM scratch
COPY --from=debian / /
COPY kube-proxy /usr/local/bin/
"""
KUBEADM_REGISTRY = "registry.k8s.io"
ETCD_TAG = "3.6.5-0"
COREDNS_TAG = "v1.12.1"
PAUSE_TAG = "3.10.1"  # also in node/containerd.toml
NODE_FILES = Path(__file__).parent / "node"


def name() -> str:
    """What the image made here is called: it says what went into it."""
    versions = [tools.PROGRAMS[program].version for program in ("kubelet", "etcd", "coredns")]
    digest = hashlib.sha256(repr([KUBE_PROXY, versions, ETCD_TAG, COREDNS_TAG, PAUSE_TAG]).encode())
    for file in sorted(NODE_FILES.iterdir()):
        digest.update(file.read_bytes())
    return f"localhost/distrain-node:{tools.KUBERNETES}-{digest.hexdigest()[:12]}"


def get() -> str:
    """The published image, or the one made here."""
    if published.reachable():
        return published.NODE
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        raise Failure(
            "no container registry answers, and a node image made here runs on cgroup v1 only: "
            "make registry-1.docker.io reachable, or use a machine with cgroup v1"
        )
    if not engine.has_image(name()):
        tools.build_kubernetes(*tools.ON_NODES)
        tools.build("etcd")
        tools.build("coredns")
        tools.build_own("pause")
        base()
        with step("building the node image"), tempfile.TemporaryDirectory(prefix="distrain-node-") as scratch:
            version = Path(scratch) / "version"
            version.write_text(tools.KUBERNETES + "\n")
            archive = control_plane(Path(scratch))
            files = [file for file in NODE_FILES.iterdir() if file.name != "Dockerfile"]
            files += [BIN / "kubelet", BIN / "kubeadm", BIN / "kubectl", version, archive]
            dockerfile = f"FROM {BASE}\n" + (NODE_FILES / "Dockerfile").read_text()
            engine.build(name(), dockerfile, files)
    return name()


def base() -> None:
    """Debian with systemd and containerd; its archive stays in the cache."""
    archive = CACHE / f"{BASE.rsplit('/')[-1].replace(':', '-')}.tar"
    if not archive.exists():
        if not shutil.which("debootstrap"):
            host.install("debootstrap")
        with (
            step("making the nodes' Debian"),
            tempfile.TemporaryDirectory(prefix="distrain-debian-", dir=CACHE) as scratch,
        ):
            root = Path(scratch) / "root"
            mirror = debian_mirror()
            run(
                *("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root),
                *([mirror] if mirror else []),
                timeout=1200,
            )
            for folder in UNUSED:
                shutil.rmtree(root / folder)
            partial = archive.with_suffix(".partial")
            run("tar", "-C", root, "-cf", partial, ".", timeout=300)
            partial.rename(archive)
            engine.call("import", archive, BASE, timeout=300)
    elif not engine.has_image(BASE):
        engine.call("import", archive, BASE, timeout=300)


def debian_mirror() -> str | None:
    """The mirror of this machine's own configuration, if it is a Debian."""
    apt = Path("/etc/apt")
    for file in (apt / "sources.list", *apt.glob("sources.list.d/*")):
        entry = r"^(?:URIs:|deb(?:\s+\[.*?\])?)\s+(\S+/debian/?)(?:\s|$)"
        if file.exists() and (found := re.search(entry, file.read_text(), re.MULTILINE)):
            return found[1]
    return None


def control_plane(folder: Path) -> Path:
    """An archive of the images that kubeadm asks for, under the names that it asks for."""
    k8s = tools.KUBERNETES
    programs = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
    tags = [f"{KUBEADM_REGISTRY}/{name}:{k8s}" for name in programs[:3]]
    tags.append(f"{KUBEADM_REGISTRY}/etcd:{ETCD_TAG}")
    copy = f"FROM scratch\nCOPY {' '.join(programs)} /usr/local/bin/\nENV PATH=/usr/local/bin\n"
    engine.build(tags[0], copy, [BIN / name for name in programs])
    for tag in tags[1:]:
        engine.call("tag", tags[0], tag)
    others = {
        f"kube-proxy:{k8s}": (KUBE_PROXY, "kube-proxy"),
        f"coredns/coredns:{COREDNS_TAG}": ('FROM scratch\nCOPY coredns /\nENTRYPOINT ["/coredns"]\n', "coredns"),
        f"pause:{PAUSE_TAG}": ('FROM scratch\nCOPY pause /\nENTRYPOINT ["/pause"]\n', "pause"),
    }
    for name, (dockerfile, program) in others.items():
        tags.append(f"{KUBEADM_REGISTRY}/{name}")
        engine.build(tags[-1], dockerfile, [BIN / program])
    archive = folder / "images.tar"
    options = ["--quiet", "--multi-image-archive"] if engine.name() == "podman" else []
    engine.call("save", *options, "-o", archive, *tags, timeout=300)
    return archive
