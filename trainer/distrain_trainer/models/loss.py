"""The loss around a model: what the strategies wrap."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from distrain_trainer.data.text import IGNORE_INDEX
from distrain_trainer.hardware.numerics import autocast


class SummedLoss(nn.Module):
    """The model with its loss. precision: that of the forward pass; weights stay as they are.

    needs_mask: whether the model is told which tokens are padding. In a causal model a token attends to what lies
    before it, and padding lies after it, so most do without; `probes.choose_mask` finds out.
    chunks: 0, or in how many parts the logits of a language model are computed, one after the other and once more in
    the backward pass, so that the whole logits never exist. The number is the same for each micro-batch on each
    process, whatever it holds: strategies that shard the output layer gather it once a chunk, all of them together.
    """

    def __init__(self, model: PreTrainedModel, precision: str = "fp32"):
        super().__init__()
        self.model = model
        self.precision = precision
        self.needs_mask = True
        self.chunks = 0

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        with_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy in nats, summed over the valid targets: fp32 scalar; and, in evaluation mode, the predictions.

        input_ids, attention_mask, position_ids: int64 [rows, tokens]; labels: int64 [rows] or [rows, tokens], -100 for
        no target, already shifted for language models: labels[:, t] is what position t predicts. position_ids: of
        packed rows, which have no attention_mask.
        predictions: int64 of the labels' shape, of no meaning where there is no target; empty in training mode. With
        `with_logits` in their place the logits of the targets in order: [targets, classes].
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask if self.needs_mask else None}
        if position_ids is not None:
            inputs |= {"position_ids": position_ids, "use_cache": False}
            if str(self.model.config._attn_implementation).startswith("flash"):
                # Flash attention tells packed texts apart in a single row only.
                inputs |= {"input_ids": input_ids.view(1, -1), "position_ids": position_ids.view(1, -1)}
        with autocast(input_ids.device, self.precision):
            if self.chunks:
                return self._in_chunks(inputs, labels, with_logits)
            logits = self.model(**inputs).logits.flatten(0, -2)
        loss = summed(logits, labels.flatten())
        if with_logits:
            return loss, logits.detach()[labels.flatten() != IGNORE_INDEX]
        return loss, labels[:0] if self.training else logits.argmax(-1).view_as(labels)

    def _in_chunks(
        self, inputs: dict[str, Any], labels: torch.Tensor, with_logits: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, from the hidden states of the targets alone and never all their logits at once."""
        model = transformer(self.model)
        hidden = model.get_decoder()(**inputs).last_hidden_state.flatten(0, -2)
        places = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        hidden, targets = hidden.index_select(0, places), labels.flatten()[places]

        def loss_of(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return summed(logits_of(model, hidden), targets)

        losses, seen = [], []
        for part, wanted in zip(hidden.tensor_split(self.chunks), targets.tensor_split(self.chunks), strict=True):
            if self.training:
                losses.append(checkpoint(loss_of, part, wanted, use_reentrant=False))
                continue
            logits = logits_of(model, part)
            losses.append(summed(logits, wanted))
            seen.append(logits.detach() if with_logits else logits.argmax(-1))
        loss = torch.stack(losses).sum()
        if with_logits:
            return loss, torch.cat(seen)
        if self.training:
            return loss, labels[:0]
        predictions = torch.full_like(labels.flatten(), IGNORE_INDEX)
        predictions[places] = torch.cat(seen)
        return loss, predictions.view_as(labels)


def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats, fp32, summed over the targets. logits: [n, classes]; targets: int64 [n], -100 for none."""
    return nn.functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="sum")


def transformer(model: Any) -> Any:
    """The model of transformers, without the adapter that may be around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def logits_of(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The logits that a language model makes of the last hidden states [n, hidden]: [n, vocabulary].

    The output layer is called as a module, never its weight taken: that is where strategies gather it and adapters
    work. What models do to its output is known here for some families; others are found out by `probes`.
    """
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
