"""Which parameters an optimizer treats alike: those that decay, and those of one depth."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.sections import Optimizer

BLOCK = re.compile(r"(.*?\.)(\d+)\.")
"""The stack and the number of the block in which a parameter is, by its name."""


def groups_of(model: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """The trained parameters in groups, as torch's optimizers take them: matrices decay, biases and norms do not.

    scale: what the learning rate of a group is multiplied with; 1 without `optimizer.layer_decay`.
    """
    scales = scales_of((name for name, _ in model.named_parameters()), settings.layer_decay)
    members: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[scales[name], parameter.ndim >= 2].append(parameter)
    return [
        {"params": parameters, "weight_decay": settings.weight_decay if is_matrix else 0.0, "scale": scale}
        for (scale, is_matrix), parameters in members.items()
    ]


def scales_of(names: Iterable[str], layer_decay: float) -> dict[str, float]:
    """What each parameter's learning rate is multiplied with: 1 above the last block, `layer_decay` in it, its square
    in the block below, and so on down to the embeddings. Raises SettingsError for a model of several stacks of blocks.

    names: of all parameters, in the order of the forward pass.
    """
    names = list(names)
    if layer_decay == 1:
        return dict.fromkeys(names, 1.0)
    found = {name: match for name in names if (match := BLOCK.match(name))}
    depth = {stack: 0 for stack, _ in (match.groups() for match in found.values())}
    for match in found.values():
        depth[match[1]] = max(depth[match[1]], int(match[2]) + 1)
    blocks = max(depth.values(), default=0)
    stacks = [stack for stack in depth if depth[stack] == blocks]
    if len(stacks) != 1:
        what = f"several stacks of blocks ({', '.join(stacks)})" if stacks else "no blocks"
        raise SettingsError(
            f"optimizer.layer_decay is for a model with one stack of blocks, this has {what}; remove it"
        )
    scales, below = {}, True
    for name in names:
        inside = name in found and found[name][1] == stacks[0]
        below = below and not inside
        place = int(found[name][2]) + 1 if inside else 0 if below else blocks + 1
        scales[name] = layer_decay ** (blocks + 1 - place)
    return scales
