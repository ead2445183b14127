"""The trainer of distrain: what runs in the container.

`from distrain_trainer import train, evaluate, predict` is the same in Python, for notebooks and scripts. The names are
found when they are asked for, so importing the package alone imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distrain_trainer.api import Evaluation, Prediction, TrainingResult, evaluate, predict, train

__all__ = ["Evaluation", "Prediction", "TrainingResult", "evaluate", "predict", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("distrain_trainer.api"), name)
