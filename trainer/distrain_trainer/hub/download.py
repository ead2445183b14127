"""Fetching ahead, so that a run needs no network: into the cache that transformers and datasets read.

What is fetched is what distrain loads: configuration, tokenizer and safetensors, and not the same weights again for
other frameworks.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from distrain_trainer.errors import SettingsError
from distrain_trainer.hub.errors import hub_error

UNUSED = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite"),
    *("*.mlmodel", "*.mlpackage/*", "onnx/*", "openvino/*", "coreml/*", "original/*", "*.safetensors/*"),
)
"""Files of a model for other programs."""
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Fetched:
    """A model in the cache. commit: 40 hex digits. folder: where its files are."""

    name: str
    commit: str
    folder: Path


def fetch_model(name: str, revision: str | None) -> list[Fetched]:
    """Fetches a model, and the base model where it is an adapter.

    revision: branch, tag or commit, None for the newest. Raises SettingsError, ServiceAway.
    """
    try:
        folder = Path(snapshot_download(name, revision=revision, ignore_patterns=list(UNUSED)))
    except Exception as error:  # the HTTP client that huggingface_hub uses, and so its errors, change with its version
        raise hub_error(error, "model", name, revision) from error
    if not any(folder.glob("*.safetensors")):
        raise SettingsError(
            f"model {name} has no weights as safetensors, the one format that distrain loads; choose another, or "
            "another revision"
        )
    fetched = Fetched(name, folder.name, folder)
    adapter = folder / "adapter_config.json"
    if not adapter.exists():
        return [fetched]
    told = json.loads(adapter.read_text())
    return [fetched, *fetch_model(told["base_model_name_or_path"], told.get("revision"))]


def remember_commit(kind: Literal["model", "dataset"], name: str, revision: str | None, commit: str) -> None:
    """Notes in the cache which commit a branch or tag is at, as huggingface_hub does where it downloads by them."""
    ref = _ref(kind, name, revision)
    with suppress(OSError):  # a cache that cannot be written is no reason to end
        if ref.exists() and ref.read_text() == commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(commit)
        new.replace(ref)


def cached_commit(kind: Literal["model", "dataset"], name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag was at when it was last asked for, None where the cache does not know."""
    try:
        commit = _ref(kind, name, revision).read_text()
    except (OSError, HFValidationError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _ref(kind: str, name: str, revision: str | None) -> Path:
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    return folder / "refs" / (revision or constants.DEFAULT_REVISION)
