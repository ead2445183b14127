"""The cluster's programs, built once from their Go modules and kept in the cache."""

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

from cluster.shell import BIN, Failure, run, step

FLAGS = ("-trimpath", "-ldflags", "-s -w")
OWN = Path(__file__).parent / "go"
"""Modules of our own: two small programs, and two that pin what Kubernetes and etcd are built from."""


class Program(NamedTuple):
    module: str
    version: str
    package: str = ""
    in_place: bool = False  # built inside the module cache, as the proxy does not list the module's versions


PROGRAMS = {
    "kind": Program("sigs.k8s.io/kind", "v0.33.0"),
    "helm": Program("helm.sh/helm/v3", "v3.22.0", "/cmd/helm"),
    "registry": Program("github.com/distribution/distribution/v3", "v3.1.2", "/cmd/registry"),
    "coredns": Program("github.com/coredns/coredns", "v1.14.2"),
    "etcd": Program("go.etcd.io/etcd/server/v3", "v3.6.5"),
    "training-operator.v1": Program("github.com/kubeflow/training-operator", "v1.9.4", "/cmd/training-operator.v1"),
    "jobset": Program("sigs.k8s.io/jobset", "v0.12.0", in_place=True),
    "trainer-controller-manager": Program(
        "github.com/kubeflow/trainer/v2", "v2.3.0", "/cmd/trainer-controller-manager"
    ),
    "kueue": Program("sigs.k8s.io/kueue", "v0.19.2", "/cmd/kueue", in_place=True),
    "kwok": Program("sigs.k8s.io/kwok", "v0.7.0", "/cmd/kwok"),
    **{
        name: Program("k8s.io/kubernetes", "v1.34.4", f"/cmd/{name}")
        for name in (
            *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
            *("kubelet", "kubeadm", "kubectl"),
        )
    },
}
KUBERNETES = PROGRAMS["kubectl"].version
ON_NODES = [name for name, program in PROGRAMS.items() if program.module == "k8s.io/kubernetes"]


def build(name: str) -> Path:
    """The program, built if the cache does not hold this version of it."""
    program = PROGRAMS[name]
    if program.in_place:
        target = BIN / f"{name}-{program.version}"
        if not target.exists():
            with step(f"building {name} {program.version}"):
                source = module_folder(program)
                go("build", *FLAGS, "-o", target, f".{program.package}", timeout=1800, cwd=source)
        return target
    target = BIN / name
    if not is_built(name):
        with step(f"building {name} {program.version}"):
            package = program.module + program.package
            if name == "etcd":
                go("build", *FLAGS, "-o", target, package, timeout=1800, cwd=OWN / "etcd")
            else:
                go("install", *FLAGS, f"{package}@{program.version}", timeout=1800)
    return target


def build_kubernetes(*names: str) -> None:
    """All of them at once, as they share most packages."""
    wanted = [name for name in names if not is_built(name)]
    if not wanted:
        return
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    facts = {
        "gitVersion": KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    flags = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in facts.items())])
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in wanted]
    with step(f"building Kubernetes {KUBERNETES} ({', '.join(wanted)})"):
        go("build", "-trimpath", "-ldflags", flags, "-o", f"{BIN}/", *packages, timeout=3600, cwd=OWN / "kubernetes")


def build_own(name: str) -> Path:
    source = OWN / name
    target = BIN / name
    if not target.exists() or target.stat().st_mtime < (source / "main.go").stat().st_mtime:
        with step(f"building {name}"):
            go("build", *FLAGS, "-o", target, ".", timeout=600, cwd=source)
    return target


def module_folder(program: Program) -> Path:
    """The module's unpacked source, which also holds its manifests."""
    go("mod", "download", f"{program.module}@{program.version}", timeout=900)
    return Path(go("env", "GOMODCACHE").strip()) / f"{program.module}@{program.version}"


def is_built(name: str) -> bool:
    """Whether the cache holds it in the wanted version, which Go writes into each program."""
    program = PROGRAMS[name]
    return [program.module, program.version] in versions().get(name, [])


def versions() -> dict[str, list[list[str]]]:
    """The modules and versions in each program of the cache."""
    found: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for line in go("version", "-m", BIN).splitlines():
        if not line.startswith("\t"):
            current = found.setdefault(Path(line.split(":")[0]).name, [])
        else:
            current.append(line.split()[1:3])
    return found


def go(*arguments: str | Path, timeout: float = 120, cwd: Path = OWN) -> str:
    find_go()
    BIN.mkdir(parents=True, exist_ok=True)
    environment = {"CGO_ENABLED": "0", "GOBIN": str(BIN), "GOFLAGS": "", "GOWORK": "off"}
    return run("go", *arguments, timeout=timeout, cwd=cwd, env=environment).stdout


@functools.cache
def find_go() -> None:
    if not shutil.which("go"):
        raise Failure("Go builds the cluster's programs and is not there: install Go 1.26 or later")
