"""The sub-commands that talk to the Hugging Face Hub: push, push-dataset and download."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distrain_trainer.console import say
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import Data, Hub, Model
from distrain_trainer.settings.values import repository_name


def push(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Pushes a trained model to the Hub, and prints where it is as JSON."""
    asked = hub_of(chosen)
    if chosen.best and chosen.checkpoint not in (None, "best"):
        raise SettingsError(f"--best and --checkpoint {chosen.checkpoint} contradict each other; keep one of them")
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.hub.upload import push_model, quieten
    from distrain_trainer.inference.trained import model_folder, tell_model

    quieten()
    folder = model_folder(chosen.path, "best" if chosen.best else chosen.checkpoint)
    tell_model(chosen.path, folder)
    print(json.dumps(asdict(push_model(folder, asked, folder.parent / "report.html", say)), indent=2))


def push_dataset(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Pushes local files to the Hub as a data set, and prints where it is as JSON."""
    asked = hub_of(chosen)
    from distrain_trainer.data.publish import push_data
    from distrain_trainer.hub.upload import quieten

    quieten()
    pushed, rows = push_data(chosen.files, asked, chosen.config, say)
    print(json.dumps(asdict(pushed) | {"rows": rows}, indent=2))


def hub_of(chosen: argparse.Namespace) -> Hub:
    """What was asked for on the command line, as the section of the settings. Raises SettingsError."""
    try:
        return Hub(repo=repository_name(chosen.repo), private=not chosen.public)
    except ValueError as error:
        raise SettingsError(f"REPO is {chosen.repo}, but {error.args[0]}") from None


def download(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Fetches a model and data sets into the cache, and prints what is there as JSON."""
    model, data = wanted(chosen)
    from distrain_trainer.data.sources import is_sample, locate, open_splits, quiet_datasets
    from distrain_trainer.hub.download import fetch_model
    from distrain_trainer.hub.upload import quieten
    from distrain_trainer.memory.model_shapes import local_model

    quieten()
    found: dict[str, Any] = {"models": [], "datasets": []}
    if local_model(model.name):
        say(f"model {model.name} is on this machine")
    else:
        found["models"] = [asdict(one) | {"folder": str(one.folder)} for one in fetch_model(model.name, model.revision)]
    for one in data:
        if is_sample(one) or one.files:
            say(f"the data, {'sample' if is_sample(one) else ', '.join(one.files or ())}, is on this machine")
            continue
        origin = locate(one)
        with quiet_datasets():
            splits = open_splits(Settings(data=one), origin, Path())
        rows = {name: len(source.rows) for name, source in splits.items()}
        found["datasets"].append({"name": one.name, "config": one.config, "commit": origin.commit, "rows": rows})
    print(json.dumps(found, indent=2))
    say("HF_HUB_OFFLINE=1 distrain train now needs no network")


def wanted(chosen: argparse.Namespace) -> tuple[Model, list[Data]]:
    """The model and the data sets that the command line names, by themselves or in a settings file. Raises
    SettingsError."""
    if not chosen.model.endswith((".yaml", ".yml", ".json")):
        data = [Data(name=name, config=chosen.config) for name in chosen.datasets]
        return Model(name=chosen.model, revision=chosen.revision), data
    if chosen.datasets or chosen.revision or chosen.config:
        raise SettingsError(f"{chosen.model} says which model and data are fetched; leave the other arguments out")
    settings = read_settings(chosen.model, {})
    return settings.model, [settings.data]
