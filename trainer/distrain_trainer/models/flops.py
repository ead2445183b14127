"""How many floating-point operations a model needs."""

from typing import Any

from torch import nn

from distrain_trainer.hardware.efficiency import ModelFlops
from distrain_trainer.models.load import element_count


def flops_of(model: Any) -> ModelFlops | None:
    """What a model needs. None where not every token meets every matrix (a mixture of experts, an encoder with a
    decoder).

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
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return ModelFlops(
        forward=sum(2 * element_count(matrix) for matrix in matrices),
        backward=sum((4 if matrix.requires_grad else 2) * element_count(matrix) for matrix in matrices),
        attention=4 * config.num_hidden_layers * width,
    )
