"""The learning rate as a function of the step."""

import math

from distrain_trainer.settings.sections import Schedule


def learning_rate(settings: Schedule, highest: float, step: int, steps: int) -> float:
    """The learning rate of the step after `step` steps are done, of a run of `steps`. highest: that of the settings."""
    warmup = _steps(settings.warmup_steps, settings.warmup_fraction, steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    falling = steps - warmup
    if settings.kind == "wsd":
        falling = min(falling, _steps(settings.decay_steps, settings.decay_fraction, steps))
    left = min((steps - step) / max(falling, 1), 1.0)
    least = settings.min_learning_rate
    return least + (highest - least) * _height(settings, left)


def _height(settings: Schedule, left: float) -> float:
    """How high between the least and the highest rate, from 1 to 0. left: of the way down, from 1 to 0."""
    shape = settings.decay if settings.kind == "wsd" else settings.kind
    match shape:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "sqrt":
            return 1 - math.sqrt(1 - left)
        case _:
            return left


def _steps(steps: int | None, fraction: float, of: int) -> int:
    """A number of steps that is given as it is, or as a fraction of all."""
    return math.ceil(fraction * of) if steps is None else steps
