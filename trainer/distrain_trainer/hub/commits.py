"""Which commit a branch or tag of the Hub is at, and whether the Hub answers at all: one request each.

Asked before anything is fetched: the libraries that fetch try each file six times, 24 seconds in all, and tell every
try, also for what is in the cache.
"""

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from distrain_trainer.hub.errors import hub_error

COMMIT = re.compile("[0-9a-f]{40}")
PATIENCE = 30.0
"""Seconds without a sign of the Hub after which it is away."""
Kind = Literal["model", "dataset"]


def commit_of(kind: Kind, name: str, revision: str | None) -> str:
    """The commit that a revision is at; one that is given needs no request.

    revision: branch, tag or commit, None for the newest. Where the Hub cannot be reached, the commit is the one that
    the cache knows. Raises SettingsError (a model) or DataError (a data set), ServiceAway.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        commit = ask(name, revision=revision, timeout=PATIENCE).sha
    except Exception as error:  # the HTTP client that huggingface_hub uses, and so its errors, change with its version
        found = hub_error(error, "model" if kind == "model" else "data set", name, revision)
        cached = cached_commit(kind, name, revision) if found.away or constants.HF_HUB_OFFLINE else None
        if cached is None:
            raise found from error
        return cached
    assert commit is not None
    remember_commit(kind, name, revision, commit)
    return commit


@cache
def is_reachable() -> bool:
    """Whether the Hub answers; asked once a process. Where it does not, the cache has to do (`local_files_only`)."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # see `commit_of`
        return False
    return True


def at(commit: str | None) -> dict[str, Any]:
    """What from_pretrained takes besides a name on the Hub. commit: None for a local folder."""
    return {"revision": commit, "local_files_only": commit is not None and not is_reachable()}


def remember_commit(kind: Kind, name: str, revision: str | None, commit: str) -> None:
    """Notes in the cache which commit a branch or tag is at, as huggingface_hub does where it downloads by them."""
    ref = _ref(kind, name, revision)
    with suppress(OSError):  # a cache that cannot be written is no reason to end
        if ref.exists() and ref.read_text() == commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(commit)
        new.replace(ref)


def cached_commit(kind: Kind, name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag was at when it was last asked for, None where the cache does not know."""
    try:
        commit = _ref(kind, name, revision).read_text()
    except (OSError, HFValidationError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _ref(kind: Kind, name: str, revision: str | None) -> Path:
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    return folder / "refs" / (revision or constants.DEFAULT_REVISION)
