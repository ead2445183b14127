"""A trained model: which folder holds it, and how it is loaded for evaluation and generation in one process."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from distrain_trainer.bars import progress
from distrain_trainer.console import a_few, say
from distrain_trainer.data.chat import use_template
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hardware.numerics import autocast, set_up_numerics
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.hub.commits import at
from distrain_trainer.hub.errors import hub_error
from distrain_trainer.models.load import (
    load_config,
    load_model,
    load_tokenizer,
    longest_row,
    model_class,
    resolve,
    stop_at_turn_end,
)
from distrain_trainer.models.lora import CONFIG, base_of, check_installed, load_weights
from distrain_trainer.settings.model import Settings, changed, flat
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.storage.layout import BEST, checkpoint_step, published_checkpoints

TRIES = 3
"""How often a model is read that a run replaces meanwhile."""


@dataclass(frozen=True)
class Trained:
    """A trained model as its folder holds it.

    record: settings.json. labels: what they are called, in the order of their ids; none where they have no names.
    """

    folder: Path
    record: dict[str, Any]
    settings: Settings
    model: Any
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    device: torch.device

    @property
    def max_length(self) -> int:
        """Longest row, in tokens."""
        assert self.settings.data.max_length is not None
        return self.settings.data.max_length

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Computes without gradients, in the precision of training."""
        with torch.inference_mode(), autocast(self.device, self.settings.precision):
            yield

    def settings_for(self, files: Sequence[str]) -> Settings:
        """The model's settings with all rows of `files` as the data."""
        changes: dict[str, Any] = {
            "data.name": None,
            "data.mix": None,
            "data.files": list(files),
            "data.split_by_name": False,
            "data.evaluation_files": None,
            "data.evaluation_split": None,
            "data.evaluation_fraction": 0.0,
            "data.split_column": None,
            "data.train_split": "train",
        }
        return changed(self.settings, changes)


def model_folder(path: str, checkpoint: str | None = None) -> Path:
    """The model that `path` means: of a run its final/, its best or its newest checkpoint, or the folder itself.

    checkpoint: which of a run's to take: final, best, newest or a step. Raises DataError where there is none.
    """
    folder = Path(path)
    published = published_checkpoints(folder) if folder.exists() else []
    if checkpoint is None:
        candidates = [folder / "final", folder, folder / BEST, *published]
    elif checkpoint in ("final", "best"):
        candidates = [folder / {"final": "final", "best": BEST}[checkpoint]]
    elif checkpoint == "newest":
        candidates = published
    elif checkpoint.isdecimal():
        candidates = [folder / f"checkpoint-{int(checkpoint)}"]
    else:
        raise SettingsError(f"--checkpoint is {checkpoint}; give final, best, newest or the number of a step")
    for candidate in candidates:
        if _holds_model(candidate):
            return candidate
    if checkpoint is not None and (there := _models_in(folder)):
        raise DataError(f"{path} has no {checkpoint} model; --checkpoint takes {', '.join(there)}")
    if checkpoint is not None and _holds_model(folder):
        raise SettingsError(f"{path} is one model, not the folder of a run; leave out --checkpoint {checkpoint}")
    problem = "holds no trained model" if folder.exists() else "does not exist"
    raise DataError(
        f"{path} {problem}; give a run's folder, its final/ or one of its checkpoints, or --task for a model that was "
        "made elsewhere"
    )


def _models_in(folder: Path) -> list[str]:
    """What --checkpoint may be for the folder of a run: final, best, and steps, newest first."""
    named = [name for name, inside in (("final", "final"), ("best", BEST)) if _holds_model(folder / inside)]
    return named + [str(checkpoint_step(found)) for found in published_checkpoints(folder)]


def tell_model(path: str, folder: Path) -> None:
    """Says which model of a run was taken, and what else there is."""
    if folder != Path(path):
        others = [name for name in _models_in(Path(path)) if not folder.name.endswith(name)]
        say(f"model: {folder}" + (f" (--checkpoint takes another: {', '.join(others)})" if others else ""))


def _holds_model(folder: Path) -> bool:
    described = (folder / "config.json").exists() or (folder / CONFIG).exists()
    return described and (folder / "settings.json").exists()


def load(path: str, flags: dict[str, str], checkpoint: str | None = None) -> Trained:
    """Loads the model of a run or a checkpoint; an adapter on its base model, quantized as in training.

    flags: settings to change, such as batch.tokens, or quantization.bits to null. checkpoint: which of a run's to take.
    A model that no run has made, in a folder or on the Hub, is loaded where flags name its task.
    A run that trains meanwhile may take the folder away that is read: then the one that has taken its place is. Raises
    DataError, SettingsError.
    """
    if "task" in flags and checkpoint is None and not _models_in(Path(path)) and not _holds_model(Path(path)):
        with progress("reading the model"):
            return load_elsewhere(path, flags)
    for _ in range(TRIES):
        folder = model_folder(path, checkpoint)
        before = _inode(folder)
        try:
            with progress("reading the model"):
                return load_folder(folder, flags)
        except Exception:
            if _inode(folder) == before is not None:
                raise
    raise DataError(f"the run in {path} replaces its models faster than they can be read; wait until it has finished")


def _inode(folder: Path) -> int | None:
    """Tells a folder from one that takes its place, None where there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def load_folder(folder: Path, flags: dict[str, str]) -> Trained:
    """Loads the model of one folder, as `load` does."""
    record = json.loads((folder / "settings.json").read_text())
    base = flat(Settings.model_validate(record["settings"]))
    settings = read_settings(None, flags, environment={}, base=base)
    if settings.batch.tokens == "auto":
        raise SettingsError("batch.tokens is auto, which is for training only; give a number")
    set_up_numerics(threads_for(1), deterministic=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = tuple(record["labels"] or ())
    if (folder / CONFIG).exists():
        check_installed(settings)
        model = load_model(changed(settings, {"lora.adapter": None}), *base_of(folder), tokenizer, labels)
        load_weights(model, folder)
    else:
        model = model_class(settings).from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return Trained(folder, record, settings, model.to(device).eval(), tokenizer, labels, device)


def load_elsewhere(name: str, flags: dict[str, str]) -> Trained:
    """Loads a model that no run has made: a base model, or one that another trainer has saved.

    name: a folder, or a name on the Hub. flags: settings, task among them. Raises SettingsError.
    """
    settings = read_settings(None, {"model.name": name} | flags, environment={})
    set_up_numerics(threads_for(1), deterministic=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source, revision = resolve(settings.model)
    config, tokenizer = load_config(source, revision), load_tokenizer(source, revision)
    use_template(tokenizer, settings)
    labels = labels_of(config, settings)
    settings = changed(
        settings, {"model.revision": revision, "data.max_length": longest_row(settings, config, tokenizer)}
    )
    try:
        model, found = model_class(settings).from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **at(revision)
        )
    except (OSError, ValueError) as error:
        raise hub_error(error, "model", name, revision) from error
    if found["missing_keys"]:
        raise SettingsError(
            f"{name} was not trained for {settings.task}: it lacks {a_few(sorted(found['missing_keys']))}; give its "
            "own task, or train it first"
        )
    if settings.facts.holds == "messages":
        stop_at_turn_end(model, tokenizer)
    return Trained(Path(source), {}, settings, model.to(device).eval(), tokenizer, labels, device)


def labels_of(config: Any, settings: Settings) -> tuple[str, ...]:
    """What the classes of a model are called; by their numbers where its configuration has transformers' own names.

    Raises SettingsError for ordinal regression, whose levels no configuration has.
    """
    if settings.task == "ordinal-regression":
        raise SettingsError(
            "task is ordinal-regression, whose levels only the run that trained the model knows; use task regression"
        )
    if not settings.facts.classes:
        return ()
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    return tuple(name.removeprefix("LABEL_") for name in names)
