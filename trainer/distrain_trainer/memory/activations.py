"""How many bytes a micro-batch's activations take, from the settings and the shapes of the model's weights alone.

The formula is described in docs/memory.md. A factor stands beside the line of a library that keeps those tensors
(torch 2.13, transformers 5.23, peft 0.21); all of them together are held against measured bytes by
`pytest -m "matrix or not matrix" tests/trainer/memory/test_memory.py -k near -s`. Needs neither torch nor transformers.
"""

import math
from dataclasses import dataclass

from distrain_trainer.memory.adapters import adapter_inputs, norm_of_weights, targets
from distrain_trainer.memory.forward import FP32, INT64, Forward
from distrain_trainer.memory.model_shapes import Weights, elements
from distrain_trainer.settings.model import Settings

KEPT_BY_ACTIVATION = {"relu": 1, "quick_gelu": 3, "gelu_new": 5, "gelu_fast": 8}
"""Tensors of the MLP's width that its activation keeps, with the output that the next matrix reads: the factors of each
product and the results of tanh and sigmoid in `forward` of transformers/activations.py; relu keeps its result alone."""
KEPT_BY_KERNEL = 2
"""The same where one kernel computes the activation (gelu, silu): its input and its output."""
WHOLE_BYTES, CHUNK_BYTES = 2**30, 2**28
"""Bytes of a micro-batch's fp32 logits beyond which they are computed in chunks, and of a chunk at most."""


def chunks_for(wanted: bool | None, tokens: int, vocabulary: int) -> int:
    """In how many chunks the logits of a micro-batch are computed; 0: whole.

    wanted: `model.chunked_loss`. tokens: `batch.tokens`.
    """
    size = FP32 * tokens * vocabulary
    if wanted is None:
        wanted = size > WHOLE_BYTES
    return math.ceil(size / CHUNK_BYTES) if wanted else 0


def at_once(settings: Settings, tokens: int) -> int:
    """Padded tokens of a micro-batch of `tokens` that go through the model together. Of judged answers it is half of
    them: those to other prompts go before, and keep nothing."""
    return -(-tokens // 2) if settings.facts.compares and settings.preference.judges else tokens


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch. kept: from the forward to the backward pass. layer: of one block, and again where it
    is recomputed. loss, passing: what the loss keeps, and what it takes for a moment. back: what one block takes for a
    moment, of its backward pass and of its adapters' norms."""

    kept: int
    layer: int
    loss: int
    passing: int
    back: int


def activations(weights: Weights, settings: Settings, tokens: int, kind: str, device: str = "cuda") -> Activations:
    """The memory of a micro-batch of `tokens` padded tokens whose rows are as long as they may be.

    device: cuda or cpu, which keep dropout, attention and LayerNorm in other ways. zero3 multiplies with a function of
    its own, which keeps what it was given and no 16-bit copy.
    """
    forward = Forward(weights, settings, tokens, kind, device)
    attention, scores = _attention(forward)
    activation = KEPT_BY_ACTIVATION.get(weights.activation, KEPT_BY_KERNEL)
    gate = 2 * weights.gated  # act(gate) * up keeps both factors (LlamaMLP.forward in transformers/models/llama)
    mlp = (activation + gate) * forward.size * weights.intermediate
    dropped = forward.mask_size * weights.hidden if weights.dropout else 0  # the mask of one nn.Dropout
    layer = tokens * (_norms(forward) + _inputs(forward) + attention + mlp + 2 * dropped)

    head, loss, passing = _head(forward)
    skipped, embeds = _untouched(weights, settings)
    copies, block_copies = _copies(forward, skipped)
    before = embeds * (FP32 * weights.hidden * weights.encoder + dropped)  # LayerNorm and Dropout of BertEmbeddings
    ids = 3 * INT64  # of the batch: tokens, mask and labels
    rotary = 2 * FP32 * weights.head_size * forward.length  # cos and sin of LlamaRotaryEmbedding.forward
    outer = head + tokens * (before + ids) + rotary
    # For a moment in a block's backward pass: two gradients of the MLP's width and one of the stream, or two of scores.
    back = max(2 * forward.size * weights.intermediate + FP32 * weights.hidden, 2 * scores)
    back = max(tokens * back, norm_of_weights(weights, settings))
    reached = weights.layers * (len(weights.blocks) - skipped) // len(weights.blocks)
    if settings.model.gradient_checkpointing:  # which keeps what every block is given, whether it is trained or not
        inputs = weights.layers * forward.stream * weights.hidden * tokens
        kept = outer + loss + inputs + copies - reached * block_copies
        return Activations(kept, layer + block_copies, loss, passing, back)
    return Activations(outer + loss + reached * layer + copies, 0, loss, passing, back)


def _untouched(weights: Weights, settings: Settings) -> tuple[int, bool]:
    """How many of the first blocks no gradient reaches, since they and all before them are frozen; and whether what is
    before the blocks is trained. What is neither an embedding nor known to follow the blocks counts as before them."""
    if settings.lora.rank is not None:  # beside checkpoints peft asks for the gradient of the embedding's output
        return 0, settings.model.gradient_checkpointing
    trained = weights.parameters.keys() - weights.frozen(settings.model.freeze)
    if any(not weights.follows(name) for name in trained):
        return 0, True
    touched = (
        number for number, prefix in enumerate(weights.blocks) if any(name.startswith(prefix) for name in trained)
    )
    return next(touched, len(weights.blocks)), False


def _norms(forward: Forward) -> int:
    """Bytes per token that a block's norms keep.

    LayerNorm keeps its input, mean and deviation (`native_layer_norm` in torch/csrc derivatives.yaml). RMSNorm keeps
    its input and, where its weight is trained, the normalized input too (LlamaRMSNorm.forward), and rsqrt's result.
    """
    weights = forward.weights
    tensors = 2 if weights.rms and forward.settings.lora.rank is None else 1
    statistics = 2 * FP32
    kept = weights.norms * (forward.norm_size * weights.hidden * tensors + statistics)
    # Qwen3Attention.forward: norms of every head's query and key, their input and normalized input in fp32.
    return kept + 2 * FP32 * (weights.heads + weights.key_value_heads) * weights.head_size * weights.query_norms


def _inputs(forward: Forward) -> int:
    """Bytes per token that a block keeps of what its matrices read, beside the outputs of attention and MLP.

    `nn.Linear` keeps its input (`mm` in derivatives.yaml). In 16 bits autocast casts that input for each matrix apart;
    in fp32, and under zero3, the matrices share one: a norm's output, for attention and for the MLP.
    """
    weights = forward.weights
    if forward.settings.lora.rank is not None:
        return adapter_inputs(forward)
    if forward.is_16_bit and forward.kind != "zero3":
        readers = (1 if weights.fused_attention else 3) + (1 if weights.fused_gate or not weights.gated else 2)
        return readers * forward.size * weights.hidden
    return 2 * FP32 * weights.hidden


def _attention(forward: Forward) -> tuple[int, int]:
    """Bytes per token that a block's attention keeps, and those of its scores where they are whole.

    Every kind keeps query, key and value, repeated to all heads (`repeat_kv` in transformers), and the output.
    """
    weights, size = forward.weights, forward.size
    width, scores = weights.heads * weights.head_size, weights.heads * forward.length
    attention = forward.settings.model.attention or "sdpa"
    tensors = 4 * size * width
    if attention == "eager":  # eager_attention_forward: softmax in fp32, its cast, dropout's mask and, in fp32, result
        kept = (FP32 + (size if forward.is_16_bit else 0)) * scores
        if weights.attention_dropout:
            kept += (forward.mask_size + (0 if forward.is_16_bit else size)) * scores
        return kept + tensors, size * scores
    if attention == "sdpa" and weights.attention_dropout and forward.device == "cpu":
        # No kernel of a CPU drops out: _scaled_dot_product_attention_math keeps softmax, mask and result whole and in
        # fp32, as it does query, key and value.
        return 3 * FP32 * scores + (3 * FP32 + size) * width, FP32 * scores
    mask = size * forward.length if attention == "sdpa" else 0  # expanded by transformers/masking_utils.py
    logsumexp = FP32 * weights.heads  # what the kernels of flash attention keep of the scores
    return logsumexp + mask + tensors, 0


def _head(forward: Forward) -> tuple[int, int, int]:
    """Bytes that the head keeps, that the loss keeps, and that the loss takes for a moment."""
    weights, settings, tokens = forward.weights, forward.settings, forward.tokens
    size = forward.size if forward.casts else FP32
    frozen = settings.lora.rank is not None  # but for a head that is new
    norm_tensors = 2 if weights.rms and not frozen else 1
    last_norm = 0 if weights.encoder else forward.norm_size * weights.hidden * norm_tensors
    if settings.facts.labelled:
        return tokens * (last_norm + size * weights.hidden), 0, 0
    output_input = 0 if frozen and forward.kind != "zero3" else size * weights.hidden
    head = tokens * (last_norm + output_input)
    if not settings.facts.causal:  # BertPredictionHeadTransform: input of dense, of its activation, of LayerNorm
        head += tokens * (2 * size + FP32) * weights.hidden
    logits = FP32 * tokens * weights.vocabulary
    if settings.facts.causal and chunks_for(settings.model.chunked_loss, tokens, weights.vocabulary):
        # models/loss.py keeps the hidden states of the targets; a chunk's logits, their softmax and gradient pass.
        return head + size * tokens * weights.hidden, 0, 3 * min(CHUNK_BYTES, logits)
    # cross_entropy keeps log_softmax; its gradient and that of the logits pass, or one and that of the output layer.
    return head, logits, max(2 * logits, logits + FP32 * weights.vocabulary * weights.hidden)


def _copies(forward: Forward, skipped: int) -> tuple[int, int]:
    """Bytes of the copies of matrices that are kept: of all, and of those in one block.

    autocast makes them of fp32 matrices (`cached_cast` in aten/src/ATen/autocast_mode.cpp). DoRA with dropout
    multiplies once more with every matrix, in another type (DoraLinearLayer.forward in peft/tuners/lora/dora.py).
    """
    weights, settings = forward.weights, forward.settings
    if settings.lora.rank is not None and (forward.base_size < FP32 or settings.quantization.bits):
        if not (settings.lora.dora and settings.lora.dropout):
            return 0, 0
        matrices, size, output = targets(weights, settings), forward.size, 0
    elif forward.casts:
        matrices, size = weights.linear(), forward.size
        output = 0 if settings.facts.labelled else weights.vocabulary * weights.hidden
    else:
        return 0, 0
    inside = elements({name: shape for name, shape in matrices.items() if name.startswith(weights.blocks)})
    block = inside // len(weights.blocks)
    return size * (elements(matrices) + output - skipped * block), size * block
