"""Generation with a trained model: the answer to one conversation, up to the token that ends its turn."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from distrain_trainer.data.chat import Template, shown
from distrain_trainer.data.conversations import Conversation, as_text, columns_of, conversation_of
from distrain_trainer.errors import DataError, first_line
from distrain_trainer.inference.sampling import GREEDY, Sampling
from distrain_trainer.inference.trained import Trained
from distrain_trainer.models.load import stop_tokens
from distrain_trainer.settings.sections import Chat


def question_of(row: Mapping[str, Any], chat: Chat, where: str) -> Conversation:
    """The conversation in a row up to the message to be answered; answers that end it are left out."""
    if "prompt" in row:
        row = {"completion": as_text([]), **row}
    if "instruction" in row:
        row = {"output": as_text([]), **row}
    found = conversation_of(row, columns_of(list(row), chat), where)
    last = max((n for n, message in enumerate(found.messages) if message["role"] != "assistant"), default=-1)
    if last < 0:
        raise DataError(f"{where} has no message to answer; correct the row or remove it")
    return Conversation(found.messages[: last + 1], found.tools)


def prompt_of(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, where: str) -> list[int]:
    """The tokens that the model continues. Raises DataError where the chat template refuses the conversation."""
    template = Template(tokenizer)
    try:
        text, _ = template.render(conversation.messages, conversation.tools, prompt=True)
    except Exception as error:  # a template is a program of others and may raise anything
        told = shown(json.dumps(conversation.messages, ensure_ascii=False))
        raise DataError(
            f"{where}: the chat template refuses it ({first_line(error)}); correct the messages: {told}"
        ) from error
    return template.encode([text])[0].ids


def context_length(trained: Trained) -> int:
    """Most tokens that the model takes, prompt and answer together."""
    positions = getattr(trained.model.config.get_text_config(), "max_position_embeddings", None)
    return positions or trained.max_length


def answer(
    trained: Trained,
    prompt: list[int],
    max_new_tokens: int,
    where: str,
    streamer: BaseStreamer | None = None,
    sampling: Sampling = GREEDY,
) -> str:
    """The answer's text with its special tokens, but for the one that ends it.

    streamer: gets each token as it is made. Raises DataError where the prompt fills the context.
    """
    left = context_length(trained) - len(prompt)
    if left < 1:
        raise DataError(f"{where} has {len(prompt)} tokens but the model takes {context_length(trained)}; shorten it")
    return decode(trained, generate(trained, prompt, min(max_new_tokens, left), sampling, streamer))


def generate(
    trained: Trained,
    prompt: list[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    streamer: BaseStreamer | None = None,
) -> list[int]:
    """Token ids after a prompt, chosen as `sampling` says, until one ends the text or there are `max_new_tokens`."""
    ids = torch.tensor([prompt], device=trained.device)
    with trained.inference():
        made = trained.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            use_cache=True,
            pad_token_id=trained.tokenizer.pad_token_id,
            streamer=streamer,
            **sampling.arguments,
        )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


def decode(trained: Trained, ids: list[int]) -> str:
    """An answer's tokens as text, without the one that ends it."""
    ends = stop_tokens(trained.model)
    return str(trained.tokenizer.decode([token for token in ids if token not in ends]))
