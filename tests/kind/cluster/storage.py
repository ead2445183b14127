"""One folder of this machine that all nodes mount: the cluster's shared storage, of limited size."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster import kubectl
from cluster.shell import CACHE, run

FOLDER = CACHE / "shared"
ON_NODES = "/shared"
SIZE = "4G"
OWNER = 1000  # the image's user and group
CLASS = "shared"
IMAGE = CACHE / "shared.ext4"


def mount() -> None:
    """The folder as a file system of its own, so that a test can fill it."""
    if os.path.ismount(FOLDER):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    IMAGE.unlink(missing_ok=True)
    with IMAGE.open("wb") as file:
        file.truncate(int(SIZE.removesuffix("G")) << 30)
    run("mkfs.ext4", "-q", "-m", "0", "-E", f"root_owner={OWNER}:{OWNER}", IMAGE)
    run("mount", "-o", "loop,noatime,discard", IMAGE, FOLDER)


def unmount() -> None:
    if os.path.ismount(FOLDER):
        run("umount", FOLDER)
    IMAGE.unlink(missing_ok=True)


def make_default() -> None:
    """Claims that name no class get volumes of this one; kind's own class knows no ReadWriteMany."""
    kubectl.run("delete", "storageclass", "standard", "--ignore-not-found")
    kubectl.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "kubernetes.io/no-provisioner",
        }
    )


def volume(namespace: str, claim: str) -> Path:
    """A ReadWriteMany volume that waits for this claim; the answer is its folder on this machine."""
    folder = FOLDER / namespace / claim
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, OWNER, OWNER)
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{claim}", "labels": {"namespace": namespace}},
            "spec": {
                "storageClassName": CLASS,
                "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
                "capacity": {"storage": "1Ti"},  # claims of any size fit
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace, "name": claim},
                "hostPath": {"path": f"{ON_NODES}/{namespace}/{claim}", "type": "Directory"},
            },
        }
    )
    return folder


def remove(namespace: str) -> None:
    """The volumes of a namespace that is gone, and what is in them."""
    kubectl.run("delete", "pv", "-l", f"namespace={namespace}", "--wait=false")
    shutil.rmtree(FOLDER / namespace, ignore_errors=True)


@contextlib.contextmanager
def full(leave: int = 0) -> Iterator[None]:
    """A full disk for the time of a test, but for so many bytes."""
    ballast = FOLDER / "ballast"
    space = os.statvfs(FOLDER)
    free = space.f_bavail * space.f_frsize
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - leave, 1))
        yield
    finally:
        ballast.unlink()
