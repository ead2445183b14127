"""Fetching ahead, so that a run needs no network: into the cache that transformers and datasets read.

What is fetched is what distrain loads: configuration, tokenizer and safetensors, and not the same weights again for
other frameworks.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from distrain_trainer.bars import progress
from distrain_trainer.errors import SettingsError
from distrain_trainer.hub.errors import hub_error

UNUSED = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite"),
    *("*.mlmodel", "*.mlpackage/*", "onnx/*", "openvino/*", "coreml/*", "original/*", "*.safetensors/*"),
)
"""Files of a model for other programs."""


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
        with progress(f"fetching {name}", shown=not sys.stderr.isatty()):  # there, bars of files are drawn
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
