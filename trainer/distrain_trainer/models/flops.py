"""How many operations a model needs."""

from collections.abc import Callable
from typing import Any

from torch import nn

from distrain_trainer.models.load import element_count


def flops_per_token(model: Any) -> Callable[[float], float] | None:
    """Tokens of a row -> operations of a forward and a backward pass for each of them. None where not every token meets
    every matrix (a mixture of experts, an encoder with a decoder).

    model: of transformers, not yet cut apart. A frozen matrix needs no gradient of its own; that of what flows through
    it is always counted.
    """
    config = model.config.get_text_config()
    sparse = any(getattr(config, name, 0) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if sparse or model.config.is_encoder_decoder:
        return None
    head = model.get_output_embeddings()
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    looked_up = tables - ({head.weight} if head is not None else set())
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2 and parameter not in looked_up]
    products = sum(element_count(matrix) * (6 if matrix.requires_grad else 4) for matrix in matrices)
    attention = 12 * config.num_hidden_layers * config.hidden_size
    return lambda row: products + attention * row
