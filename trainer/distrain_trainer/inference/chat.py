"""Talking with a trained chat model: in the terminal, and in the report."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from distrain_trainer.console import say
from distrain_trainer.data.conversations import Conversation, Message
from distrain_trainer.data.text import IGNORE_INDEX
from distrain_trainer.data.tokens import Rows
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hub.errors import first_line
from distrain_trainer.inference.generate import answer, prompt_of, stops, text_of
from distrain_trainer.inference.trained import Trained, load
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import SHARDED

COMMANDS = "/reset forgets the conversation, /system TEXT begins one with these instructions, /exit leaves"
NEW_TOKENS = 128
"""Tokens of an answer in the report at most."""
LOOKED_AT = 1000
"""Rows at most in which a token that ends an answer is looked for."""


def talk(path: str, max_new_tokens: int) -> None:
    """Answers each line of stdin as a conversation goes on: answers go to stdout as they are made, notes to stderr."""
    trained = load(path, {})
    if trained.settings.task != "chat":
        raise SettingsError(f"{path} was trained for {trained.settings.task}, not for chat; use distrain predict")
    if sys.stdin.isatty():
        say(f"{trained.folder}: {COMMANDS}")
    beginning: list[Message] = []
    messages: list[Message] = []
    for line in lines():
        command, _, text = line.partition(" ")
        if command == "/exit":
            return
        if command in ("/reset", "/system"):
            if command == "/system":
                beginning = [{"role": "system", "content": text.strip()}] if text.strip() else []
            messages = []
        elif command.startswith("/"):
            say(f"there is no command {command}: {COMMANDS}")
        elif line.strip():
            asked = [*messages, {"role": "user", "content": line}]
            said = speak(trained, beginning + asked, max_new_tokens)
            if said is not None:
                messages = [*asked, {"role": "assistant", "content": said}]


def lines() -> Iterator[str]:
    """What is typed or piped in, line by line."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def speak(trained: Trained, messages: list[Message], max_new_tokens: int) -> str | None:
    """Prints the answer token by token and returns it; None where there is none, which is said."""
    try:
        prompt = prompt_of(trained.tokenizer, Conversation(messages, None), "the conversation")
        return answer(trained, prompt, max_new_tokens, "the conversation", Spoken(trained))
    except DataError as error:
        say(f"{error} (/reset begins anew)")
    except KeyboardInterrupt:
        say("\nstopped; the last question is forgotten")
    return None


class Spoken(TextStreamer):
    """Prints an answer as it is made, without its prompt and the token that ends it."""

    def __init__(self, trained: Trained):
        super().__init__(trained.tokenizer, skip_prompt=True)
        self.stops = stops(trained.model)

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt, int64 [1, tokens], and then each token, int64 [1]."""
        if self.next_tokens_are_prompt or int(value[0]) not in self.stops:
            super().put(value)


def tell_endless(
    settings: Settings, model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows, tell: Callable[[str], None]
) -> None:
    """Says so where a chat model will not learn to end its answers, because no row has such a token to learn."""
    if settings.task != "chat":
        return
    assert rows.labels is not None
    ends = sorted(stops(model))
    if not np.isin(rows.labels[: rows.offsets[min(len(rows), LOOKED_AT)]], ends).any():
        named = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ends))) or "the tokenizer has none"
        tell(
            f"the model will not learn to end its answers: no token to learn ends one ({named}); let chat.template "
            "write one behind each assistant's turn, inside {% generation %} where it has such tags"
        )


def answer_held_out(
    settings: Settings, folder: Path, rows: Rows | None, tell: Callable[[str], None]
) -> list[dict[str, str]]:
    """{"prompt", "answer", "expected"} of `chat.samples` held-out rows, spread over all: texts as the model meets them.

    folder: the trained model's. The prompt is all that stands before the first turn that is learned. A run is finished
    by then, and nothing that goes wrong here changes that: it is said, and there are fewer answers.
    """
    if settings.task != "chat" or not settings.chat.samples or rows is None:
        return []
    if settings.strategy.kind in SHARDED:
        tell(
            f"no answers for the report: the whole model may not fit here; distrain chat {folder} gives them elsewhere"
        )
        return []
    assert rows.labels is not None
    found = []
    try:
        trained = load(str(folder), {})
        for number in np.unique(np.linspace(0, len(rows) - 1, settings.chat.samples).astype(int)):
            span = slice(rows.offsets[number], rows.offsets[number + 1])
            ids, learned = rows.input_ids[span].tolist(), rows.labels[span] != IGNORE_INDEX
            first = int(learned.argmax())
            after = first + int(np.append(learned[first:], False).argmin())
            found.append(
                {
                    "prompt": str(trained.tokenizer.decode(ids[:first])),
                    "answer": answer(trained, ids[:first], NEW_TOKENS, f"evaluation row {number + 1}"),
                    "expected": text_of(trained, ids[first:after]),
                }
            )
    except Exception as error:  # memory, above all: the model is there twice
        tell(f"not all answers for the report were made ({first_line(error)}); distrain chat {folder} gives them")
    return found
