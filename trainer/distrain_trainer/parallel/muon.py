"""Muon for the matrices of blocks and AdamW for all else, as one optimizer."""

from typing import Any

import torch

from distrain_trainer.settings.sections import Optimizer

MOMENTUM = 0.95
"""Momentum of Muon where `optimizer.momentum` is unset, as its authors chose it."""

Groups = list[dict[str, Any]]


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's two optimizers over one list of groups and one state.

    hidden: groups of matrices for Muon, whose updates are scaled to the size of AdamW's, so that one learning rate and
    one weight decay serve both. others: groups for AdamW. Neither is empty.
    """

    def __init__(self, hidden: Groups, others: Groups, settings: Optimizer):
        super().__init__([*hidden, *others], {"lr": settings.learning_rate})
        momentum = MOMENTUM if settings.momentum is None else settings.momentum
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(hidden, lr=settings.learning_rate, momentum=momentum, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon),
        )
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._hidden = len(hidden)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None
        groups = self.param_groups[: self._hidden], self.param_groups[self._hidden :]
        for part, own in zip(self._parts, groups, strict=True):  # those that Accelerate has loaded anew
            part.param_groups, part.state = own, self.state
            part.step()
