"""What the files say about a model that reads with an encoder and writes with a decoder, such as T5 and BART."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.model_shapes import (
    Shapes,
    Weights,
    any_of,
    blocks_of,
    fraction,
    is_norm,
    refuse_quantized,
    whole,
)
from distrain_trainer.settings.tasks import FACTS, Task


def halves_of(config: Mapping[str, Any], shapes: Shapes, task: Task) -> Weights:
    """The decoder, with its encoder as `source`. Raises SettingsError where the files do not say enough."""
    refuse_quantized(config)
    if not FACTS[task].writes:
        raise SettingsError(
            f"the memory of a model with an encoder and a decoder cannot be planned for {task}; set batch.tokens to a "
            "number, and read memory_bytes in metrics.jsonl after a few steps"
        )
    parameters = _parameters(config, shapes)
    read = {name: shape for name, shape in parameters.items() if "decoder" not in name.split(".")}
    read = {name: shape for name, shape in read.items() if "lm_head" not in name}
    source = _half(config, "encoder", read)
    return replace(_half(config, "decoder", parameters), source=source)


def _parameters(config: Mapping[str, Any], shapes: Shapes) -> Shapes:
    """All parameters, the table of embeddings once: both halves share it, and the output layer where it is tied."""
    table = (whole(config, "vocab_size"), whole(config, "d_model", "hidden_size"))
    kept = {n: shape for n, shape in shapes.items() if shape[-2:] != table and "final_logits_bias" not in n}
    tables = [name for name, shape in shapes.items() if shape == table]
    embeddings = [name for name in tables if "lm_head" not in name] or tables
    kept |= dict.fromkeys(embeddings[:1], table)
    if not config.get("tie_word_embeddings", True):
        kept |= {name: table for name in tables if "lm_head" in name}
    return kept


def _half(config: Mapping[str, Any], half: str, parameters: Shapes) -> Weights:
    """The encoder or the decoder. parameters: of the encoder; of the whole model for the decoder."""
    own = {name: shape for name, shape in parameters.items() if half in name.split(".")}
    blocks = blocks_of(own)
    first = {name.removeprefix(blocks[0]): shape for name, shape in own.items() if name.startswith(blocks[0])}
    outside = [name for name in own if not name.startswith(blocks)]
    hidden = whole(config, "d_model", "hidden_size")
    heads = whole(config, f"{half}_attention_heads", "num_heads", "num_attention_heads")
    gate, _, activation = str(config.get("feed_forward_proj", "")).rpartition("-")
    if gate and activation == "gelu":  # T5Config
        activation = "gelu_new"
    norms = [name for name, shape in first.items() if is_norm(name) and name.endswith("weight") and shape == (hidden,)]
    biased = any("relative_attention_bias" in name for name in own)
    dropout = fraction(config, "dropout_rate", "dropout")
    return Weights(
        parameters=parameters,
        new=frozenset(),
        bare=False,
        blocks=blocks,
        model_type=str(config.get("model_type") or ""),
        encoder=not any(re.search(r"\b(final_layer_norm|layer_norm)\.weight$", name) for name in outside),
        tied=bool(config.get("tie_word_embeddings", True)),
        hidden=hidden,
        layers=len(blocks),
        heads=heads,
        key_value_heads=heads,
        head_size=whole(config, "d_kv", default=hidden // heads),
        intermediate=whole(config, f"{half}_ffn_dim", "d_ff", "intermediate_size", default=4 * hidden),
        vocabulary=whole(config, "vocab_size"),
        positions=whole(config, "max_position_embeddings", "n_positions", default=0, least=0) or None,
        activation=activation or str(any_of(config, "activation_function") or ("relu" if biased else "gelu")),
        norms=len(norms),
        rms=not any(is_norm(name) and name.endswith("bias") for name in first),
        gated=any(re.search(r"\bwi_1\b|gate_proj", name) for name in first),
        fused_attention=False,
        fused_gate=False,
        query_norms=False,
        dropout=dropout,
        attention_dropout=dropout if biased else fraction(config, "attention_dropout"),
        mlp_dropout=dropout if biased else fraction(config, "activation_dropout"),
        biased=biased,
    )
