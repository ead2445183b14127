"""Manifests of others, taken from their Go modules and changed with kustomize."""

import json
import shutil
from pathlib import Path
from typing import Any

from cluster import kubectl, tools
from cluster.shell import CACHE


def folder(name: str, program: tools.Program, part: str) -> Path:
    """A folder of the module, copied once to where it can be changed: <answer>/<part>."""
    target = CACHE / "manifests" / f"{name}-{program.version}"
    if not (target / part).exists():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        shutil.copytree(tools.module_folder(program) / part, partial / part, copy_function=shutil.copyfile)
        for path in [partial / part, *(partial / part).rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        partial.rename(target)
    return target


def apply(root: Path, resource: str, images: dict[str, str], patches: dict[str, list[dict[str, Any]]]) -> None:
    """Applies a kustomization of the folder with other images, and with JSON patches to its Deployments."""
    described = {
        "resources": [resource],
        "images": [
            {"name": old, "newName": new.rsplit(":", 1)[0], "newTag": new.rsplit(":", 1)[1]}
            for old, new in images.items()
        ],
        "patches": [
            {"target": {"kind": "Deployment", "name": name}, "patch": json.dumps(operations, indent=1)}
            for name, operations in patches.items()
        ],
    }
    (root / "kustomization.yaml").write_text(json.dumps(described))
    kubectl.run("apply", "--server-side", "--force-conflicts", "-k", str(root), timeout=180)
