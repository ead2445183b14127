"""The exponential moving average of the trained weights: a tensor more in the optimizer's state of each.

So it is sharded, saved and restored as the others are. In a checkpoint it is the model, which evaluation and `final/`
use too, and the weights that are trained on lie with the optimizer's tensors.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from distrain_trainer.parallel.state import Tensors
from distrain_trainer.settings.model import Settings

AVERAGE, TRAINED = "ema", "trained"
"""Names of the average in the optimizer's state, and of the trained weight beside its tensors in a checkpoint."""


class Average:
    """The average of one process's fp32 weights.

    weights: what the optimizer updates, shards where the strategy cuts them. state: the optimizer's, by weight.
    changed: to call when weights have been exchanged.
    """

    def __init__(
        self,
        settings: Settings,
        weights: Sequence[torch.Tensor],
        state: MutableMapping[Any, dict[str, Any]],
        changed: Callable[[], None],
    ):
        self._decay, self._weights, self._state, self._changed = settings.ema.decay, weights, state, changed
        self._stateless = settings.optimizer.name == "sgd"

    @torch.no_grad()
    def update(self) -> None:
        """Adds the weights after a step. The first time they are the average."""
        if self._decay is None:
            return
        for weight in self._weights:
            state = self._state[weight]
            if AVERAGE in state:
                local(state[AVERAGE]).lerp_(local(weight), 1 - self._decay)
            elif state or self._stateless:  # others take a state for their own, and one without has not been updated
                state[AVERAGE] = weight.detach().clone()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Has the model compute with the average in the place of its weights. On all processes."""
        if self._decay is None:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight in self._weights:
            average = self._state[weight].get(AVERAGE)
            if average is not None:
                held = local(weight).clone()
                local(weight).copy_(local(average))
                local(average).copy_(held)
        self._changed()


def average_of(settings: Settings, optimizer: torch.optim.Optimizer, changed: Callable[[], None]) -> Average:
    """The average of what an optimizer of whole parameters or DTensors updates."""
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return Average(settings, weights, optimizer.state, changed)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def as_saved(tensors: dict[str, Any]) -> dict[str, Any]:
    """A parameter's tensors (or their shapes) as a checkpoint names them: the average, where there is one, is the
    weight."""
    if AVERAGE not in tensors:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in ("weight", AVERAGE)}
    return {"weight": tensors[AVERAGE], **rest, TRAINED: tensors["weight"]}


def as_trained(tensors: Tensors) -> Tensors:
    """The inverse of `as_saved`."""
    if TRAINED not in tensors:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in ("weight", TRAINED)}
    return {"weight": tensors[TRAINED], **rest, AVERAGE: tensors["weight"]}
