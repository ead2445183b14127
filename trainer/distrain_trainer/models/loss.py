"""The loss around a model: what the strategies wrap."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from distrain_trainer.hardware.numerics import autocast
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.kto import divergence, losses_of_answers, measured_of_answers
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.tasks.language import LANGUAGE
from distrain_trainer.tasks.preference import losses_of_pairs, measured
from distrain_trainer.tasks.task import Task

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "early_stopping": False,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "use_cache": True,
}
"""Stands over what a model's own configuration says of generation, which was found for the data it was trained on."""


class SummedLoss(nn.Module):
    """The model with the loss of its task. precision: that of the forward pass; weights stay as they are.

    weights, smoothing: of each class, and of labels. Both are for training: an evaluation computes the plain loss.
    whole: an evaluation wants logits in place of predictions. preference: how texts are compared, where they are.

    needs_mask: whether the model is told which tokens are padding. In a causal model a token attends to what lies
    before it, and padding lies after it, so most do without; `probes.choose_mask` finds out.
    router_weight: of the loss that has a model of experts use them evenly, as its configuration says; 0 where it has
    none. Each micro-batch has its own, weighted by its targets: what a micro-batch holds is planned without the number
    of processes, so the sum is the same on any of them. balance: that loss of the last micro-batch, unweighted.
    chunks: 0, or in how many parts the logits of a language model are computed, one after the other and once more in
    the backward pass, so that the whole logits never exist. The number is the same for each micro-batch on each
    process, whatever it holds: strategies that shard the output layer gather it once a chunk, all of them together.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: str = "fp32",
        task: Task = LANGUAGE,
        weights: Sequence[float] | None = None,
        smoothing: float = 0.0,
        whole: bool = False,
        preference: Preference | None = None,
    ):
        super().__init__()
        self.model: Any = model
        self.task = task
        self.smoothing, self.whole, self.preference = smoothing, whole, preference
        self.weights: torch.Tensor | None
        # Beside the model: a quantized one is on its GPU already.
        device = next((parameter.device for parameter in model.parameters()), None)
        of_classes = None if weights is None else torch.tensor(weights, device=device)
        self.register_buffer("weights", of_classes, persistent=False)
        self.precision = precision
        self.needs_mask = True
        self.router_weight = router_weight(model)
        self.balance: torch.Tensor | None = None
        self.chunks = 0

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        new_tokens: torch.Tensor | None = None,
        reference: torch.Tensor | None = None,
        chosen_tokens: torch.Tensor | None = None,
        desirable: torch.Tensor | None = None,
        with_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The task's loss, summed over the valid targets: fp32 scalar; and, in evaluation mode, the predictions.

        In training the routers' loss is added, times the number of targets.

        input_ids, attention_mask, position_ids, token_type_ids: int64 [rows, tokens]; labels: int64 [rows] or [rows,
        tokens], -100 for no target, already shifted for language models: labels[:, t] is what position t predicts.
        position_ids: of packed rows, which have no attention_mask. token_type_ids: of pairs of texts.
        labels of a text that a decoder writes: int64 [rows, tokens of the target]. new_tokens: int64, how many tokens
        the decoder is to write at most; predictions are then what it writes, int64 [rows, tokens], and the loss is 0.
        Where texts are compared, rows are chosen texts and behind them their rejected ones. reference: fp32 [rows], the
        log-probabilities of their answers before training. chosen_tokens: tokens of a chosen text, averaged over the
        step. desirable: int64 [pairs], of answers that are judged one by one and have behind them those to other
        prompts. predictions are then what is measured of each pair, or without a reference, where one is needed, the
        log-probabilities: fp32 [pairs, 2].
        predictions: int64 of the labels' shape, of no meaning where there is no target; empty in training mode. With
        `with_logits` in their place the logits of the targets in order: [targets, classes].
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask if self.needs_mask else None}
        if position_ids is not None:
            inputs |= {"position_ids": position_ids, "use_cache": False}
            if str(self.model.config._attn_implementation).startswith("flash"):
                # Flash attention tells packed texts apart in a single row only.
                inputs |= {"input_ids": input_ids.view(1, -1), "position_ids": position_ids.view(1, -1)}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if routed := bool(self.router_weight) and self.preference is None and (self.training or with_logits):
            inputs["output_router_logits"] = True
        if self.task.score_texts is not None:
            inputs["attention_mask"] = attention_mask
            if new_tokens is not None:
                with autocast(input_ids.device, self.precision):
                    return torch.zeros((), device=input_ids.device), written(self.model, int(new_tokens), **inputs)
            inputs["decoder_input_ids"] = decoder_inputs(transformer(self.model), labels)
        if self.preference is not None and not with_logits:
            with autocast(input_ids.device, self.precision):
                return self._compared(inputs, labels, attention_mask, reference, chosen_tokens, desirable)
        with autocast(input_ids.device, self.precision):
            if self.chunks:
                return self._in_chunks(inputs, labels, with_logits)
            outputs = self.model(**inputs)
            logits = outputs.logits
        loss = self._loss(logits, labels)
        if routed:
            loss = loss + self._router_loss(outputs.aux_loss, labels)
        if with_logits:
            return loss, logits.detach().flatten(0, -2)[labels.flatten() != IGNORE_INDEX]
        if self.training:
            return loss, labels[:0]
        return loss, logits.float() if self.whole else self.task.decide(logits).view_as(labels)

    def _in_chunks(
        self, inputs: dict[str, Any], labels: torch.Tensor, with_logits: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, from the hidden states of the targets alone and never all their logits at once."""
        model = transformer(self.model)
        outputs = model.get_decoder()(**inputs)
        hidden = outputs.last_hidden_state.flatten(0, -2)
        places = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        hidden, targets = hidden.index_select(0, places), labels.flatten()[places]

        def loss_of(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return self._loss(logits_of(model, hidden), targets)

        losses, seen = [], []
        for part, wanted in zip(hidden.tensor_split(self.chunks), targets.tensor_split(self.chunks), strict=True):
            if self.training:
                losses.append(checkpoint(loss_of, part, wanted, use_reentrant=False))
                continue
            logits = logits_of(model, part)
            losses.append(self._loss(logits, wanted))
            seen.append(logits.detach() if with_logits else self.task.decide(logits))
        loss = torch.stack(losses).sum()
        if "output_router_logits" in inputs:
            loss = loss + self._router_loss(balance_of(model, outputs.router_logits, inputs["attention_mask"]), labels)
        if with_logits:
            return loss, torch.cat(seen)
        if self.training:
            return loss, labels[:0]
        predictions = torch.full_like(labels.flatten(), IGNORE_INDEX)
        predictions[places] = torch.cat(seen)
        return loss, predictions.view_as(labels)

    def _compared(
        self,
        inputs: dict[str, Any],
        labels: torch.Tensor,
        mask: torch.Tensor | None,
        reference: torch.Tensor | None,
        chosen_tokens: torch.Tensor | None,
        desirable: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives of pairs. A pair without targets, of an empty micro-batch, counts nothing."""
        assert self.preference is not None and mask is not None
        pairs, answers = len(labels) // 2, labels != IGNORE_INDEX
        orpo, judges = self.preference.method == "orpo", self.preference.judges
        wanted = labels
        if orpo:  # whose loss of a language model counts the prompts of chosen texts too
            following = nn.functional.pad(inputs["input_ids"][:, 1:], (0, 1))
            chosen = nn.functional.pad(mask[:, 1:], (0, 1)).bool()
            chosen[pairs:] = False
            chosen &= answers.any(1, keepdim=True)
            wanted = torch.where(chosen, following, labels)
        entropy = self._token_losses_in_turn(inputs, labels) if judges else self._token_losses(inputs, wanted)
        valid = answers.any(1).view(2, pairs).all(0)
        tokens = answers.sum(1).view(2, pairs).clamp(min=1)
        logps = -(entropy * answers).sum(1).view(2, pairs)
        if reference is None and not orpo:
            return logps.sum() * 0, logps.T.detach()
        before = logps.detach() if reference is None else reference.view(2, pairs)
        logps = torch.where(valid, logps, -1.0) + 0 * logps  # keeps the graph, and the odds of nothing finite
        if judges:
            assert desirable is not None
            gains, others = logps - before
            losses = losses_of_answers(self.preference, gains, desirable, divergence(others, valid))
            seen = measured_of_answers(gains.detach(), others, logps[0].detach(), desirable)
            return (losses * valid).sum(), labels[:0] if self.training else seen
        loss = (losses_of_pairs(self.preference, logps, tokens, before) * valid).sum()
        if orpo:
            assert chosen_tokens is not None
            loss = loss + (entropy * chosen).sum() / chosen_tokens
        if self.training:
            return loss, labels[:0]
        return loss, measured(self.preference, logps.detach(), tokens, before)

    def _token_losses_in_turn(self, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """`_token_losses` of rows whose second half is only looked at: it goes first, and keeps nothing for a backward
        pass."""
        (own, own_labels), (others, other_labels) = (
            ({name: value if value is None else value.chunk(2)[half] for name, value in inputs.items()}, part)
            for half, part in enumerate(labels.chunk(2))
        )
        with torch.no_grad():
            of_others = self._token_losses(others, other_labels)
        return torch.cat([self._token_losses(own, own_labels), of_others])

    def _token_losses(self, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """The cross entropy of each token in nats, 0 where there is no target: fp32 of the labels' shape."""
        if not self.chunks:
            return entropies(self.model(**inputs).logits, labels)
        model = transformer(self.model)
        hidden = model.get_decoder()(**inputs).last_hidden_state.flatten(0, -2)
        places = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(1)
        hidden, targets = hidden.index_select(0, places), labels.flatten()[places]

        def losses_of(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return entropies(logits_of(model, hidden), targets)

        parts = zip(hidden.tensor_split(self.chunks), targets.tensor_split(self.chunks), strict=True)
        found = [checkpoint(losses_of, part, wanted, use_reentrant=False) for part, wanted in parts]
        nothing = torch.zeros(labels.numel(), device=labels.device)
        return nothing.index_copy(0, places, torch.cat(found)).view_as(labels)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The task's loss, weighted and smoothed in training only."""
        return self.task.loss(logits, labels, *((self.weights, self.smoothing) if self.training else ()))

    def _router_loss(self, balance: Any, labels: torch.Tensor) -> torch.Tensor | float:
        """The routers' part of a micro-batch's summed loss. balance: None or 0 where no layer has experts."""
        if not isinstance(balance, torch.Tensor):
            return 0.0
        self.balance = balance.detach()
        targets = (labels != IGNORE_INDEX).sum()
        if self.weights is not None and self.training:
            assert self.task.labelled is not None and self.task.labelled.weigh is not None
            targets = self.task.labelled.weigh(labels, self.weights)
        return self.router_weight * targets * balance


def entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross entropy of each target in nats, 0 where there is none: fp32 of the labels' shape."""
    flat = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return flat.view_as(labels)


def decoder_inputs(model: Any, labels: torch.Tensor) -> torch.Tensor:
    """What a decoder reads while it learns to write its targets: a start token and all of them but the last one.

    labels: int64 [rows, tokens], -100 for none.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):  # some begin with the language that they end in
        found: torch.Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return found
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    before = labels[:, :-1]
    return torch.cat([start, torch.where(before == IGNORE_INDEX, model.config.pad_token_id, before)], dim=1)


def written(model: Any, longest: int, **inputs: Any) -> torch.Tensor:
    """The tokens that a decoder writes, the likeliest at each place: int64 [rows, tokens], `longest` at most.

    Where processes share parameters, all go through the model equally often.
    """
    synced = dist.is_initialized() and dist.get_world_size() > 1
    tokens: torch.Tensor = model.generate(**inputs, **GREEDY, max_new_tokens=longest, synced_gpus=synced)
    return tokens[:, 1:]  # behind the start token


def transformer(model: Any) -> Any:
    """The model of transformers, without the adapter that may be around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def router_weight(model: Any) -> float:
    """The weight of the routers' loss in a model that computes one; else 0."""
    own = transformer(model)
    if "output_router_logits" not in inspect.signature(own.forward).parameters:
        return 0.0
    config = own.config.get_text_config()
    return float(getattr(config, "router_aux_loss_coef", None) or getattr(config, "aux_loss_coef", None) or 0.0)


def balance_of(model: Any, router_logits: tuple[torch.Tensor, ...], mask: torch.Tensor | None) -> Any:
    """The routers' loss as most models of experts compute it; `probes` compares it with the model's own.

    router_logits: [rows x tokens, experts] of each layer. mask: int64 [rows, tokens], 1 where a token counts.
    """
    from transformers.models.mixtral import modeling_mixtral

    chosen = model.config.get_text_config().num_experts_per_tok
    loss_of: Any = modeling_mixtral.load_balancing_loss_func
    return loss_of(router_logits, router_logits[0].shape[-1], chosen, mask)


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
