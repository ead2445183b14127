"""How much a target of each class counts in the loss of training."""

import difflib

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Names

BALANCED = ["balanced"]


def class_weights(settings: Settings, labels: np.ndarray | None, names: Names) -> tuple[float, ...] | None:
    """The weight of each class, as `loss.class_weights` asks; None where all count the same.

    labels: of the training rows, as the loader has them. Raises SettingsError for classes that are not there.
    """
    wanted, labelled = settings.loss.class_weights, TASKS[settings.task].labelled
    if wanted is None or labelled is None:
        return None
    if wanted == BALANCED:
        assert labels is not None and labelled.balanced is not None
        return tuple(float(weight) for weight in labelled.balanced(labels, len(names)))
    found = dict.fromkeys(names, 1.0)
    for one in wanted:
        name, _, number = one.rpartition("=")
        if name not in found:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise SettingsError(
                f"loss.class_weights names '{name}', which is not a label; did you mean {nearest}? The labels are "
                f"{a_few(names)}"
            )
        found[name] = float(number)
    return tuple(found.values())


def weights_sentence(weights: tuple[float, ...], names: Names) -> str:
    """`class weights: ham 0.577, spam 3.75`, the first few of many."""
    shown = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    return f"class weights: {', '.join(shown[:8])}" + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
