"""Pushing a trained model to the Hub: model or adapter, tokenizer, report and model card, in one commit.

A push that is cut off leaves the repository as it was, and the next one does only what is missing: files that are there
are not sent again, and where nothing has changed there is no commit.
"""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    get_session,
    metadata_load,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import disable_progress_bars

from distrain_trainer.bars import progress
from distrain_trainer.console import short
from distrain_trainer.errors import DataError, DistrainError, ServiceAway, SettingsError
from distrain_trainer.hub.errors import chain, push_error
from distrain_trainer.hub.pushed import Pushed
from distrain_trainer.reporting.model_card import PLACE, base_on_hub, model_card
from distrain_trainer.settings.sections import Hub
from distrain_trainer.storage.layout import read_record
from distrain_trainer.storage.metrics_log import read_metrics

T = TypeVar("T")
Tell = Callable[[str], None]
Kind = Literal["model", "dataset"]

CARD = "README.md"
LONGEST_PAUSE = 60.0
"""Seconds between two tries at most; the first follows after one, and each next after twice the time."""
PATIENCE = 300.0
"""Seconds without a sign of the Hub after which a request has failed."""
TRAINING_STATE = re.compile(r"optimizer.*\.safetensors|manifest\.json|state\.json|.*\.tmp")
"""Files of a checkpoint that are no part of its model."""
MODEL = re.compile(
    r"(model|adapter_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?|(config|generation_config|adapter_config)\.json"
)
"""Files that say which model a repository holds: one that a push does not bring is left from an earlier model."""
LICENSE = ("license", "license_name", "license_link")


def quieten() -> None:
    """Leaves the terminal to our own sentences, and to bars where somebody sees them. For a process that does nothing
    else."""
    hub_logging.set_verbosity(logging.ERROR)
    warnings.simplefilter("ignore")
    if not sys.stderr.isatty():
        disable_progress_bars()


def push_model(folder: Path, asked: Hub, report: Path | None, tell: Tell) -> Pushed:
    """Pushes the model of a folder to `asked.repo`, and tries again for as long as the Hub cannot take it.

    report: report.html of the run, None to leave it out. tell: takes a sentence for a person when it has to wait.
    Raises SettingsError for what the Hub refuses, ServiceAway, and DataError where no run has written the folder.
    """
    assert asked.repo is not None
    repo = asked.repo
    record = read_record(folder)
    if record is None:
        raise DataError(f"{folder} has no settings.json of a run; give a run's folder or one of its models")
    card, title = described(folder, record)
    files = {path.relative_to(folder).as_posix(): path for path in model_files(folder)}
    if report is not None and report.exists():
        files[report.name] = report

    def push() -> Pushed:
        api = HfApi()
        before = open_repository(api, repo, "model", asked.private, tell)
        additions = [CommitOperationAdd(name, path) for name, path in files.items()]
        additions.append(CommitOperationAdd(CARD, with_license(api, card.replace(PLACE, repo), record).encode()))
        gone = [CommitOperationDelete(path) for path in before if MODEL.fullmatch(path) and path not in files]
        size = short(sum(path.stat().st_size for path in files.values()))
        with progress(f"pushing {size}B to {repo}", shown=not sys.stderr.isatty()):  # there, bars of files are drawn
            made = api.create_commit(repo, [*gone, *additions], commit_message=title)
        return Pushed(repo, made.oid, f"{constants.ENDPOINT}/{repo}")

    return patiently(push, "model", repo, asked.wait_minutes * 60, tell)


def patiently(push: Callable[[], T], kind: Kind, repo: str, seconds: float, tell: Tell) -> T:
    """What `push` returns, which is tried again while the Hub is away or overloaded, for so many seconds.

    Raises SettingsError, ServiceAway.
    """
    if constants.HF_HUB_OFFLINE:
        raise SettingsError(f"HF_HUB_OFFLINE is set, so nothing is pushed to {repo}; unset it where there is a network")
    deadline, pause, told = time.monotonic() + seconds, 1.0, False
    while True:
        try:
            get_session().timeout = PATIENCE
            return push()
        except DistrainError:
            raise
        except Exception as error:  # huggingface_hub, hf_xet and the HTTP client each have their own
            found, wait = push_error(error, kind, repo), max(pause, retry_after(error))
            if not isinstance(found, ServiceAway) or time.monotonic() + wait > deadline:
                raise found from error
        if not told:
            tell(f"{found}; trying again for {seconds / 60:.3g} minutes")
            told = True
        time.sleep(wait)
        pause = min(pause * 2, LONGEST_PAUSE)


def retry_after(error: BaseException) -> float:
    """The seconds that the Hub asks to wait, 0 where it asks for none."""
    for link in chain(error):
        if isinstance(link, HfHubHTTPError) and (asked := link.response.headers.get("Retry-After", "")).isdecimal():
            return float(asked)
    return 0.0


def open_repository(api: HfApi, repo: str, kind: Kind, private: bool, tell: Tell) -> list[str]:
    """Makes the repository where it is not there yet; the paths of its files.

    Raises SettingsError where it is public although the push is not meant to be.
    """
    info: Any = None
    with suppress(RepositoryNotFoundError):
        info = api.repo_info(repo, repo_type=kind, timeout=PATIENCE)
    if info is None:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        return []
    check_visibility(repo, bool(info.private), private)
    if info.private and not private:
        tell(f"{repo} is private and stays so; make it public in its settings on the Hub")
    return [file.rfilename for file in info.siblings or ()]


def check_visibility(repo: str, is_private: bool, private: bool) -> None:
    """Raises SettingsError where a repository is public and must not be."""
    if private and not is_private:
        raise SettingsError(
            f"the repository {repo} is public; set hub.private to false (distrain push: --public) to push to it, or "
            "choose another"
        )


# What is pushed


def model_files(folder: Path) -> list[Path]:
    """The files of a model, without its card and the state of training that a checkpoint has."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not TRAINING_STATE.fullmatch(path.name) and path != folder / CARD
    ]


def described(folder: Path, record: dict[str, Any]) -> tuple[str, str]:
    """The card of the model in a folder of a run, which is made where there is none, and the title of its commit.

    record: its settings.json.
    """
    run, state = folder.parent, _read(folder / "state.json")
    told = state or _read(run / "training_info.json")
    step, best = told.get("step", 0), told.get("best")
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line.get("step") == step]
    values = {
        name.removeprefix("eval_"): value for line in lines for name, value in line.items() if name.startswith("eval_")
    }
    metric = record["settings"]["evaluation"]["metric"]
    title = f"Step {step}" + (f": {metric} {values[metric]:.4f}" if values.get(metric) is not None else "")
    card = folder / CARD
    if card.exists():
        return card.read_text(encoding="utf-8"), title
    return model_card(record, step, told.get("tokens", 0), best, values), title


def with_license(api: HfApi, card: str, record: dict[str, Any]) -> str:
    """The card with the license of the base model, where that is known and the card names none."""
    head = ModelCard(card, ignore_metadata_errors=True)
    found = {} if head.data.get("license") else license_of_base(api, record["settings"])
    if not found:
        return card
    for name, value in found.items():
        head.data[name] = value
    return str(head)


def license_of_base(api: HfApi, settings: dict[str, Any]) -> dict[str, str]:
    """What the base model's card says of its license, nothing where that cannot be found out.

    settings: of settings.json.
    """
    base = settings["model"]
    told: Any
    try:
        name = base_on_hub(settings)
        if name is not None:
            told = api.model_info(name, revision=base["revision"], timeout=PATIENCE).card_data
        else:
            told = metadata_load(Path(base["name"]).expanduser() / CARD)
    except Exception:  # a push does not depend on it
        return {}
    return {part: str(value) for part in LICENSE if told and (value := told.get(part))}


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
