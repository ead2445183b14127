"""What of a run is on the Hub: hub.json in its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.layout import PUSHED


@dataclass(frozen=True)
class Pushed:
    """What is on the Hub now. commit: 40 hex digits. url: of the repository's page."""

    repo: str
    commit: str
    url: str


def note_push(folder: Path, pushed: Pushed, model: str, step: int | None, finished: bool) -> None:
    """Notes what of a run is on the Hub. model: `final` or `checkpoint-best`. finished: with what a finished run has
    beside its model. Raises OSError."""
    write_json(folder / PUSHED, asdict(pushed) | {"model": model, "step": step, "finished": finished})


def pushed_step(folder: Path, repo: str, model: str, finished: bool) -> int | None:
    """The step of a run whose model is on the Hub, None where there is none."""
    try:
        found = json.loads((folder / PUSHED).read_text())
        same = (found["repo"], found["model"]) == (repo, model) and found["finished"] >= finished
        step: int | None = found["step"] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step


def step_of(model: Path) -> int | None:
    """The step of the model in a folder of a run, None where that cannot be read."""
    state = model / "state.json"
    try:
        found: int = json.loads((state if state.exists() else model.parent / "training_info.json").read_text())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
