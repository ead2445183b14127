"""Renders the chart with the real Helm, for the tests beside this file."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "distrain"
CACHE = Path(os.environ.get("KIND_CACHE") or Path.home() / ".cache" / "distrain-kind")
HELM = shutil.which("helm") or shutil.which("helm", path=CACHE / "bin")

needs_helm = pytest.mark.skipif(
    HELM is None, reason=f"there is no helm on PATH or in {CACHE / 'bin'}: go install helm.sh/helm/v3/cmd/helm@v3.22.0"
)

Values = dict[str, Any]
Document = dict[str, Any]


def helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Helm without a cluster."""
    environment = os.environ | {"KUBECONFIG": os.devnull}
    command = [str(HELM), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, env=environment)


@cache
def _template(name: str, values: str, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return helm("template", name, str(CHART), "-n", "team", "-f", "-", *arguments, stdin=values)


def rendered(*settings: str, values: Values | str | None = None, name: str = "run1") -> str:
    """What Helm prints. settings: as --set takes them. values: of a file, as its text or as what it holds."""
    result = _template(name, _text(values), _sets(settings))
    assert result.returncode == 0, result.stderr
    return result.stdout


def refusal(*settings: str, values: Values | str | None = None, name: str = "run1") -> str:
    """What Helm says to a person whose values it refuses."""
    result = _template(name, _text(values), _sets(settings))
    assert result.returncode != 0, "these values were rendered"
    return result.stderr


def documents(*settings: str, values: Values | str | None = None, name: str = "run1") -> list[Document]:
    return [document for document in yaml.safe_load_all(rendered(*settings, values=values, name=name)) if document]


def document(kind: str, *settings: str, values: Values | str | None = None, name: str = "run1") -> Document:
    """The first document of a kind."""
    return next(found for found in documents(*settings, values=values, name=name) if found["kind"] == kind)


def variables(*settings: str, values: Values | str | None = None) -> dict[str, str]:
    """The settings as the container gets them."""
    found = environment(container(*settings, values=values))
    return {name: text.replace("$$", "$") for name, text in found.items() if name.startswith("DISTRAIN_")}


def replicas(*settings: str, values: Values | str | None = None) -> dict[str, Document]:
    """Master and Worker of the PyTorchJob."""
    specs: dict[str, Document] = document("PyTorchJob", *settings, values=values)["spec"]["pytorchReplicaSpecs"]
    return specs


def pod(*settings: str, values: Values | str | None = None) -> Document:
    """The pod template of the PyTorchJob."""
    template: Document = replicas(*settings, values=values)["Master"]["template"]
    return template


def container(*settings: str, values: Values | str | None = None) -> Document:
    (trainer,) = pod(*settings, values=values)["spec"]["containers"]
    found: Document = trainer
    return found


def volumes(**values: Any) -> dict[str, Document]:
    """The pod's volumes by their names."""
    return {volume.pop("name"): volume for volume in pod(values=values)["spec"]["volumes"]}


def environment(found: Document) -> dict[str, Any]:
    """A container's variables: text, or where the text comes from."""
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in found["env"]}


def _text(values: Values | str | None) -> str:
    return values if isinstance(values, str) else json.dumps(values or {})


def _sets(settings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for setting in settings for part in ("--set", setting))
