"""What is proved about a model before it trains: that it can be trained as asked, and that a faster way gives the
numbers of the plain one.

A few random tokens go through the wrapped model in the precision of training. On every process.
"""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import torch
from torch import nn

from distrain_trainer.data.loader import Collator
from distrain_trainer.data.packing import Packing
from distrain_trainer.data.rows import Rows
from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.activations import CHUNK_BYTES, at_once, chunks_for
from distrain_trainer.models.loss import SummedLoss, transformer
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.state import on_device
from distrain_trainer.settings.model import Settings

LONGEST = 64
"""Tokens of a probe's row, at most."""
EXACT = 1e-4
"""Largest difference of two ways, as a part of the largest logit, in fp32."""
ROUNDED_PACKING, ROUNDED_CHUNKS = 5e-2, 1e-2
"""The same where something is of a lower precision: texts side by side are rounded otherwise than alone, while chunks
repeat the very same operations."""
PAIRS, PAIR = 4, 16
"""Rows of the probe for causality, and their tokens."""
FORESIGHT = 0.1
"""What a later token may change in a logit, as a part of what an earlier one does, where rounding may be part of it."""


def check_causal(settings: Settings, loss: SummedLoss, wrapped: nn.Module, collator: Collator) -> None:
    """Refuses (SettingsError) to train a language model that sees the tokens it is to predict, as an encoder does.

    All rows go through the model in one batch, so that even a model of experts computes equal tokens alike. A leak
    shows in every row, an accident of rounding does not.
    """
    if not settings.facts.causal:
        return
    length = min(settings.data.max_length or PAIR, PAIR)
    kept = length // 2
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    ids = generator.integers(collator.vocabulary, size=(PAIRS, length))
    others = (ids + generator.integers(1, collator.vocabulary, size=ids.shape)) % collator.vocabulary
    place = np.arange(length)
    tokens = np.concatenate([ids, np.where(place < kept, ids, others), np.where(place >= kept - 1, ids, others)])
    rows = Rows(tokens.astype(np.int32).ravel(), np.arange(0, tokens.size + 1, length))
    batch = replace(collator, rows=rows, task="causal-lm", packing=None)(np.arange(len(tokens)), 0)
    found = _logits(loss, wrapped, batch).view(3, PAIRS, length - 1, -1)[:, :, kept - 1]
    later, earlier = ((found[0] - found[i]).abs().amax(-1) / found[0].abs().amax(-1) for i in (1, 2))
    allowed = EXACT if _is_exact(loss) else FORESIGHT * float(earlier.min())
    if max(collectives.gather(float(later.min()) - allowed)) > 0:
        raise SettingsError(
            f"task is {settings.task} but {settings.model.name} is not causal: its tokens see those that follow, so it "
            "would be trained with the answers in sight; choose a causal model such as GPT-2 or Llama, or task "
            "masked-lm"
        )


def check_packing(settings: Settings, loss: SummedLoss, wrapped: nn.Module, collator: Collator) -> None:
    """Refuses `batch.packing` (SettingsError) for a model in which texts of one row see each other.

    wrapped: what the strategy has made of `loss`.
    """
    if not settings.batch.packing:
        return
    alone = _logits(loss, wrapped, probe(settings, collator, packed=False))
    try:
        together = _logits(loss, wrapped, probe(settings, collator, packed=True))
    except (TypeError, ValueError) as problem:  # of a model that takes no positions
        raise SettingsError(
            f"{settings.model.name} does not accept packed rows ({problem}); set batch.packing=false"
        ) from problem
    error, most = _difference(alone, together), EXACT if _is_exact(loss) else ROUNDED_PACKING
    if not error <= most:
        raise SettingsError(
            f"texts packed into one row attend to each other in {settings.model.name}: its logits differ from those "
            f"of the texts alone by {error:.1e} of the largest, and {most:.0e} is allowed; set batch.packing=false"
        )


def tell_router_loss(settings: Settings, loss: SummedLoss, say: Callable[[str], None]) -> None:
    """Says whether the routers of a model of experts are trained to use them evenly. After a first forward pass."""
    config = transformer(loss.model).config.get_text_config()
    if loss.balance is not None:
        say(
            f"the router loss of {settings.model.name} is trained too, with the weight {loss.router_weight:g} of its "
            "config.json; it is part of loss, not of eval_loss"
        )
    elif getattr(config, "router_aux_loss_coef", None) and getattr(config, "num_experts_per_tok", None):
        say(
            f"{settings.model.name} is a model of experts, but transformers computes no router loss for it under "
            f"{settings.task}, so none is trained"
        )


def choose_mask(settings: Settings, loss: SummedLoss, wrapped: nn.Module, collator: Collator) -> None:
    """Sets `loss.needs_mask` to False for a causal model that gives the same logits without an attention mask.

    Rows are padded at their end. The mask is needless where, without one, no bit of a text's logits depends on what
    stands in the padding, and they are the logits with a mask, to rounding: other kernels may add up in another order.
    Without a mask attention takes its fast causal kernels and no mask of [rows, tokens, tokens] exists.
    """
    if not settings.facts.causal or settings.batch.packing or loss.router_weight:
        return  # routers count the tokens that are no padding
    batch = probe(settings, collator, packed=False)
    masked = _logits(loss, wrapped, batch)
    loss.needs_mask = False
    ids = batch["input_ids"]
    other = torch.where(batch["attention_mask"].bool(), ids, (ids + 1) % collator.vocabulary)
    try:
        bare, bare_other = (_logits(loss, wrapped, batch | {"input_ids": inputs}) for inputs in (ids, other))
    except (TypeError, ValueError, AttributeError):  # of a model that builds something from its mask
        loss.needs_mask = True
        return
    same = all(collectives.gather(torch.equal(bare, bare_other)))
    loss.needs_mask = not (same and _difference(masked, bare) <= (EXACT if _is_exact(loss) else ROUNDED_PACKING))


def choose_loss(
    settings: Settings, loss: SummedLoss, wrapped: nn.Module, collator: Collator, say: Callable[[str], None]
) -> None:
    """Sets `loss.chunks` as `model.chunked_loss` wants it, where that gives the model's own logits.

    Where it does not, whole logits are computed and that is said, or it is refused (SettingsError) if it was asked for.
    """
    tokens, wanted = at_once(settings, settings.batch.limit), settings.model.chunked_loss
    if not settings.facts.causal:
        return
    vocabulary = transformer(loss.model).config.get_text_config().vocab_size
    chunks = chunks_for(wanted, tokens, vocabulary)
    if not chunks:
        return
    batch = probe(settings, collator, packed=False)
    own = _logits(loss, wrapped, batch)
    loss.chunks = chunks
    balance = loss.balance
    try:
        error = _difference(own, _logits(loss, wrapped, batch))
        if balance is not None and loss.balance is not None:
            error = max(error, _difference(balance, loss.balance))
        found = f"they differ by {error:.1e} of the largest"
    except (TypeError, AttributeError) as problem:  # no decoder or output layer under the usual names
        error, found = inf, str(problem)
    if error <= (EXACT if _is_exact(loss) else ROUNDED_CHUNKS):
        say(
            f"the loss is computed in chunks of at most {CHUNK_BYTES >> 20} MiB of logits, {chunks} per micro-batch, "
            f"not {4 * tokens * vocabulary / 2**30:.2g} GiB at once"
        )
        return
    loss.chunks = 0
    reason = f"{settings.model.name} computes its logits differently from its output layer ({found})"
    if wanted:
        raise SettingsError(f"model.chunked_loss is true but {reason}; set it to false")
    say(f"the loss is computed over whole logits, because {reason}; lower batch.tokens if memory runs out")


def probe(settings: Settings, collator: Collator, packed: bool) -> dict[str, torch.Tensor]:
    """A batch of five texts of random tokens, a row each or packed into two rows of which one ends in padding."""
    longest = min(settings.data.max_length or LONGEST, LONGEST)
    lengths = np.array([longest // 2, 1, longest // 4, longest // 3, longest // 4])
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    ids = generator.integers(collator.vocabulary, size=lengths.sum()).astype(np.int32)
    rows = Rows(ids, np.concatenate([[0], np.cumsum(lengths)]))
    packing = Packing(np.arange(5), np.array([0, 3, 5]), np.array([lengths[:3].sum(), lengths[3:].sum()]))
    collate = replace(collator, rows=rows, task="causal-lm", packing=packing if packed else None)
    return collate(np.arange(2 if packed else 5), 0)


@torch.no_grad()
def _logits(loss: SummedLoss, wrapped: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the batch's targets, fp32 [targets, vocabulary], without dropout."""
    device = next(loss.parameters()).device
    training = wrapped.training
    wrapped.eval()
    try:
        logits: torch.Tensor = wrapped(**on_device(batch, device), with_logits=True)[1]
    finally:
        wrapped.train(training)
    return logits.float()


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a part of the largest value, of the process where it is largest."""
    error = float((one - other).abs().max() / one.abs().max())
    return max(collectives.gather(error), key=lambda e: inf if e != e else e)


def _is_exact(loss: SummedLoss) -> bool:
    """Whether everything is computed in fp32."""
    return loss.precision == "fp32" and all(parameter.dtype == torch.float32 for parameter in loss.parameters())
