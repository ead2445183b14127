"""Which trackers there are, what they need, and whether it is there."""

import os
from importlib.util import find_spec
from pathlib import Path

from distrain_trainer.errors import SettingsError
from distrain_trainer.reporting.trackers.api import TrackedRun, Tracker
from distrain_trainer.settings.sections import Tracking

QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Variables of a process that talks to trackers, unless somebody has set them: the packages send nothing about
themselves, and an error is heard of soon instead of after minutes of retries."""


def make(name: str, run: TrackedRun) -> Tracker:
    """The tracker of that name. Imports its package. Raises whatever the package raises."""
    match name:
        case "tensorboard":
            from distrain_trainer.reporting.trackers.tensorboard import TensorBoard

            return TensorBoard(run)
        case "wandb":
            from distrain_trainer.reporting.trackers.wandb import WandB

            return WandB(run)
        case "mlflow":
            from distrain_trainer.reporting.trackers.mlflow import MLflow

            return MLflow(run)
    raise AssertionError(name)


def check_trackers(tracking: Tracking) -> None:
    """Refuses trackers that could not be sent anything, before a run begins. Raises SettingsError."""
    for name in tracking.trackers:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, as packages leave them, is no package
            raise SettingsError(
                f"tracking.trackers has {name}, whose package is not installed; run pip install 'distrain[trackers]', "
                "or remove it there"
            )
    if "mlflow" in tracking.trackers and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise SettingsError(
            "tracking.trackers has mlflow but MLFLOW_TRACKING_URI is not set; set it to the address of the server"
        )
    if "wandb" in tracking.trackers and not _can_log_in():
        raise SettingsError(
            "tracking.trackers has wandb but there is no key for it; set WANDB_API_KEY, run wandb login, or set "
            "WANDB_MODE=offline"
        )


def _can_log_in() -> bool:
    """Whether W&B may find a key: one in the environment, or a file that may hold one or say that none is needed."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    if os.environ.get("WANDB_MODE", "online") != "online":
        return True
    config = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    files = (os.environ.get("NETRC") or "~/.netrc", "~/_netrc", f"{config}/settings", "wandb/settings")
    return any(Path(file).expanduser().exists() for file in files)
