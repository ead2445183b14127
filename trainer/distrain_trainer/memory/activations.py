"""How many bytes a micro-batch's activations take, from the settings and the shapes of the model's weights alone.

The formula is described in docs/memory.md. A factor stands beside the line of a library that keeps those tensors
(torch 2.13, transformers 5.23, peft 0.21); all of them together are held against measured bytes by
`pytest -m "matrix or not matrix" tests/trainer/memory/test_memory.py -k near -s`. Needs neither torch nor transformers.
"""

import math
from dataclasses import dataclass

from distrain_trainer.memory.adapters import adapter_inputs, norm_of_weights, source_inputs, targets
from distrain_trainer.memory.forward import FP32, INT64, Forward, shares
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
    """Bytes of one micro-batch. kept: from the forward to the backward pass. forward, backward: at the fullest moment
    of each of them."""

    kept: int
    forward: int
    backward: int


def activations(weights: Weights, settings: Settings, tokens: int, kind: str, device: str = "cuda") -> Activations:
    """The memory of a micro-batch of `tokens` padded tokens whose rows are as long as they may be.

    device: cuda or cpu, which keep dropout, attention and LayerNorm in other ways. zero3 multiplies with a function of
    its own, which keeps what it was given and no 16-bit copy.
    """
    of_sources, own = shares(weights, settings, tokens)
    forward = Forward(weights, settings, own, kind, device)
    reader = None if weights.source is None else Forward(weights.source, settings, of_sources, kind, device)
    head, loss, passing = _head(forward)
    stack = _stack(forward, reader)
    below = 3 * INT64 * tokens  # of the batch: tokens, mask and labels
    reading = gradient = 0
    if reader is not None:
        read = _stack(reader, None)
        below += _encoded(reader) + read.kept
        reading = below + read.back  # what the decoder has kept is gone by then
        gradient = FP32 * reader.weights.hidden * reader.tokens  # of the encoder's output, summed over the blocks
    left = below + head + stack.kept
    kept = left + loss
    return Activations(kept, forward=kept + passing, backward=max(left + stack.back + gradient, reading))


@dataclass(frozen=True)
class Stack:
    """Bytes of the blocks of a model, or of one of its halves. kept: of all of them and of what precedes them. back: of
    one block for a moment in the backward pass, recomputed where there are checkpoints."""

    kept: int
    back: int


def _stack(forward: Forward, source: Forward | None) -> Stack:
    """The blocks of a model or of a half. source: what they attend to beside themselves."""
    weights, settings, tokens = forward.weights, forward.settings, forward.tokens
    attention, scores = _attention(forward)
    crossing, cross_scores = (0, 0) if source is None else _crossing(forward, source)
    dropped = forward.mask_size * weights.hidden if weights.dropout else 0  # the mask of one nn.Dropout
    drops = 2 if source is None else 3
    layer = tokens * (_norms(forward) + _inputs(forward) + attention + _mlp(forward) + drops * dropped) + crossing

    skipped, embeds = _untouched(weights, settings)
    reached = weights.layers * (len(weights.blocks) - skipped) // len(weights.blocks)
    copies, block_copies = _copies(forward, skipped)
    before = embeds * (FP32 * weights.hidden * weights.encoder + dropped)  # LayerNorm and Dropout of BertEmbeddings
    before += dropped * weights.biased  # T5Stack drops out once more at its end
    once = 2 * FP32 * weights.head_size * forward.length  # cos and sin of LlamaRotaryEmbedding.forward
    if weights.biased:
        once = _biases(forward, 0 if source is None else source.length)
    outside = tokens * before + once + copies
    # For a moment in a block's backward pass: two gradients of the MLP's width and one of the stream, or two of scores.
    back = max(2 * forward.size * weights.intermediate + FP32 * weights.hidden, 2 * max(scores, cross_scores))
    back = max(tokens * back, norm_of_weights(weights, settings))
    if settings.model.gradient_checkpointing:  # which keeps what every block is given, whether it is trained or not
        inputs = weights.layers * forward.stream * weights.hidden * tokens
        return Stack(outside + inputs - reached * block_copies, layer + block_copies + back)
    return Stack(outside + reached * layer, back)


def _biases(forward: Forward, source: int) -> int:
    """Bytes of the biases of positions that all blocks of a half share (T5Attention.compute_bias): the numbers in the
    table, the mask, and the biases themselves where checkpoints keep them. source: tokens of the longest source."""
    length = forward.length
    biases = FP32 * forward.weights.heads * (length + source) * forward.settings.model.gradient_checkpointing
    return length * (INT64 * length + biases + forward.tokens)


def _mlp(forward: Forward) -> int:
    """Bytes per token that a block's MLP keeps."""
    weights, size = forward.weights, forward.size
    tensors = KEPT_BY_ACTIVATION.get(weights.activation, KEPT_BY_KERNEL)
    tensors += 2 * weights.gated  # act(gate) * up keeps both factors (LlamaMLP.forward in transformers/models/llama)
    kept = tensors * size
    if weights.mlp_dropout:  # its mask; and its result, where relu keeps its own for itself
        kept += forward.mask_size + (size if weights.activation == "relu" and not weights.gated else 0)
    return kept * weights.intermediate


def _untouched(weights: Weights, settings: Settings) -> tuple[int, bool]:
    """How many of the first blocks no gradient reaches, since they and all before them are frozen; and whether what is
    before the blocks is trained. What is neither an embedding nor known to follow the blocks counts as before them."""
    if weights.source is not None:  # gradients reach an encoder through all blocks of its decoder
        return 0, True
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
    crosses = weights.source is not None  # for one query more
    if forward.settings.lora.rank is not None:
        return adapter_inputs(forward)
    if forward.is_16_bit and forward.kind != "zero3":
        readers = (1 if weights.fused_attention else 3) + (1 if weights.fused_gate or not weights.gated else 2)
        return (readers + crosses) * forward.size * weights.hidden
    return (2 + crosses) * FP32 * weights.hidden


def _attention(forward: Forward) -> tuple[int, int]:
    """Bytes per token that a block's attention keeps, and those of its scores where they are whole.

    Every kind keeps query, key and value, repeated to all heads (`repeat_kv` in transformers), and the output.
    """
    width = forward.weights.heads * forward.weights.head_size
    kept, scores, size = _scores(forward, forward.length)
    return kept + (3 * size + forward.size) * width, scores


def _crossing(forward: Forward, source: Forward) -> tuple[int, int]:
    """Bytes that a decoder's block keeps to attend to what the encoder has made of a source, and those per token of its
    scores where they are whole.

    Queries and outputs are the target's, keys and values the source's, whose matrices read one output of the encoder.
    """
    weights, settings = forward.weights, forward.settings
    width = weights.heads * weights.head_size
    kept, scores, size = _scores(forward, source.length, crosses=True)
    read = 2 * forward.size * weights.hidden if forward.is_16_bit and forward.kind != "zero3" else 0
    if settings.lora.rank is not None:
        read = source_inputs(forward)
    own = kept + (size + forward.size) * width
    return forward.tokens * own + source.tokens * (2 * size * width + read), scores


def _encoded(source: Forward) -> int:
    """Bytes that the end of an encoder keeps: of its last norm, and its output where all matrices share it."""
    settings, weights = source.settings, source.weights
    shared = settings.model.gradient_checkpointing or not source.is_16_bit or source.kind == "zero3"
    return source.tokens * (_last_norm(source) + FP32 * weights.hidden * shared)


def _scores(forward: Forward, keys: int, crosses: bool = False) -> tuple[int, int, int]:
    """Of attention to rows of `keys` tokens: bytes per token that it keeps of scores and mask, those of its scores
    where they are whole, and those of an element of query, key and value.

    crosses: to the tokens of another row, which have no learned positions (T5Attention.forward).
    """
    weights, size = forward.weights, forward.size
    scores = weights.heads * keys
    attention = forward.settings.model.attention or "sdpa"
    if attention == "eager":  # eager_attention_forward: softmax in fp32, its cast, dropout's mask and, in fp32, result
        kept = (FP32 + (size if forward.is_16_bit else 0)) * scores
        if weights.attention_dropout:
            kept += (forward.mask_size + (0 if forward.is_16_bit else size)) * scores
        return kept, size * scores, size
    if attention == "sdpa" and weights.attention_dropout and forward.device == "cpu":
        # No kernel of a CPU drops out: _scaled_dot_product_attention_math keeps softmax, mask and result whole and in
        # fp32, as it does query, key and value.
        return 3 * FP32 * scores, FP32 * scores, FP32
    logsumexp = FP32 * weights.heads  # what the kernels of flash attention keep of the scores
    if weights.biased:  # a mask for each head (create_position_bias_mask), of which no kernel of a CPU has a gradient
        learned = not crosses and forward.device == "cpu"
        return (FP32 * scores, FP32 * scores, FP32) if learned else (logsumexp + size * scores, 0, size)
    causal = weights.source is not None and not crosses  # without padding before its end, so that it needs no mask
    mask = size * keys if attention == "sdpa" and not causal else 0  # expanded by transformers/masking_utils.py
    return logsumexp + mask, 0, size


def _last_norm(forward: Forward) -> int:
    """Bytes per token that the norm behind the last block keeps."""
    weights = forward.weights
    tensors = 2 if weights.rms and forward.settings.lora.rank is None else 1
    return 0 if weights.encoder else forward.norm_size * weights.hidden * tensors


def _head(forward: Forward) -> tuple[int, int, int]:
    """Bytes that the head keeps, that the loss keeps, and that the loss takes for a moment."""
    weights, settings, tokens = forward.weights, forward.settings, forward.tokens
    size = forward.size if forward.casts else FP32
    frozen = settings.lora.rank is not None  # but for a head that is new
    last_norm = _last_norm(forward)
    if settings.facts.labelled:
        return tokens * (last_norm + size * weights.hidden), 0, 0
    output_input = 0 if frozen and forward.kind != "zero3" else size * weights.hidden
    head = tokens * (last_norm + output_input)
    if settings.facts.target == "masked-token":
        # BertPredictionHeadTransform: input of dense, of its activation, of LayerNorm
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
        has_output = not settings.facts.labelled and (weights.source is not None or not settings.facts.writes)
        output = weights.vocabulary * weights.hidden if has_output else 0
    else:
        return 0, 0
    if weights.source is not None:  # which counts its own
        matrices = {name: shape for name, shape in matrices.items() if not name.startswith(weights.source.blocks)}
    inside = elements({name: shape for name, shape in matrices.items() if name.startswith(weights.blocks)})
    block = inside // len(weights.blocks)
    return size * (elements(matrices) + output - skipped * block), size * block
