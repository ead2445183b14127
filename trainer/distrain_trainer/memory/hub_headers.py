"""What a model on the Hub says about itself: config.json, and the headers of its safetensors files.

huggingface_hub is imported where a model is asked for, so that a plan of a local folder does without.
"""

import json
from pathlib import Path
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.model_shapes import INDEX, SINGLE, Shapes, read_folder, shapes_of


def read_headers(name: str, revision: str | None) -> tuple[dict[str, Any], Shapes]:
    """config.json and the shapes of all parameters of a model on the Hub, without its weights: from the cache where it
    is there, else by requests for the first bytes of its files. Raises SettingsError, ServiceAway."""
    from huggingface_hub import get_safetensors_metadata, hf_hub_download

    from distrain_trainer.hub.commits import commit_of
    from distrain_trainer.hub.errors import hub_sentence

    revision = commit_of("model", name, revision)
    try:
        config = Path(hf_hub_download(name, "config.json", revision=revision))
        if (config.parent / SINGLE).exists() or (config.parent / INDEX).exists():
            return read_folder(config.parent)
        files = get_safetensors_metadata(name, revision=revision).files_metadata.values()
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(hub_sentence(error, "model", name, revision)) from error
    header = {key: {"dtype": t.dtype, "shape": t.shape} for file in files for key, t in file.tensors.items()}
    return json.loads(config.read_text()), shapes_of(header)
