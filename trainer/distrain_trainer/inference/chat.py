"""Talk with a trained chat model in the terminal, or through a pipe."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TextStreamer

from distrain_trainer.console import say
from distrain_trainer.data.conversations import Conversation, Message, Tools, tools_of
from distrain_trainer.errors import DataError, SettingsError, first_line
from distrain_trainer.inference.generate import answer, prompt_of
from distrain_trainer.inference.inputs import stdin_lines
from distrain_trainer.inference.sampling import GREEDY, Sampling
from distrain_trainer.inference.tool_calls import tool_calls_in
from distrain_trainer.inference.trained import Trained, load, tell_model
from distrain_trainer.models.load import stop_tokens

COMMANDS = (
    "/reset forgets the conversation, /system TEXT starts one with these instructions, /tool TEXT is the answer of a "
    "tool, /exit leaves"
)


def talk(
    path: str,
    max_new_tokens: int,
    checkpoint: str | None = None,
    sampling: Sampling = GREEDY,
    tools_file: str | None = None,
) -> None:
    """Answers each line of stdin as one conversation; answers go to stdout as they are made, notes to stderr.

    tools_file: JSON, the tools that the model may call. Nothing calls them: what they answer is typed.
    """
    tools = read_tools(tools_file)
    trained = load(path, {}, checkpoint)
    tell_model(path, trained.folder)
    if trained.settings.facts.holds != "messages" and not (
        trained.settings.facts.compares and trained.tokenizer.chat_template
    ):
        raise SettingsError(f"{path} was trained for {trained.settings.task}, not for chat; use distrain predict")
    if sys.stdin.isatty():
        say(f"{trained.folder}: {COMMANDS}")
    instructions: list[Message] = []
    messages: list[Message] = []
    sampling.begin(0)
    for line in input_lines():
        command, _, text = line.partition(" ")
        if command == "/exit":
            return
        if command in ("/reset", "/system"):
            if command == "/system":
                instructions = [{"role": "system", "content": text.strip()}] if text.strip() else []
            messages = []
        elif command.startswith("/") and command != "/tool":
            say(f"there is no command {command}: {COMMANDS}")
        elif line.strip():
            by_tool = command == "/tool"
            asked = [*messages, {"role": "tool" if by_tool else "user", "content": text if by_tool else line}]
            said = print_answer(trained, Conversation(instructions + asked, tools), max_new_tokens, sampling)
            if said is not None:
                messages = [*asked, answered(said, tools)]


def read_tools(file: str | None) -> Tools | None:
    """The tools in a JSON file. Raises SettingsError where it cannot be read, DataError where it holds none."""
    if file is None:
        return None
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"--tools {file} cannot be read ({first_line(error)}); give a JSON file") from None
    return tools_of(text, file)


def answered(said: str, tools: Tools | None) -> Message:
    """An answer as a message; calls of tools in it are told, for a person to answer them."""
    calls = tool_calls_in(said) if tools else []
    for call in calls:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        say(f"called: {function['name']} {arguments} (/tool TEXT answers it)")
    if calls:
        return {"role": "assistant", "content": "", "tool_calls": calls}
    return {"role": "assistant", "content": said}


def input_lines() -> Iterator[str]:
    """What is typed or piped in, line by line."""
    if not sys.stdin.isatty():
        yield from stdin_lines()
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except UnicodeDecodeError:
            say("that line is not UTF-8; set the terminal to UTF-8")


def print_answer(
    trained: Trained, conversation: Conversation, max_new_tokens: int, sampling: Sampling = GREEDY
) -> str | None:
    """Prints the answer token by token and returns it; says why and returns None where there is none."""
    try:
        prompt = prompt_of(trained.tokenizer, conversation, "the conversation")
        return answer(trained, prompt, max_new_tokens, "the conversation", AnswerStreamer(trained), sampling)
    except DataError as error:
        say(f"{error} (/reset starts anew)")
    except KeyboardInterrupt:
        say("\nstopped; the last question is forgotten")
    return None


class AnswerStreamer(TextStreamer):
    """Prints an answer as it is made, without its prompt and the token that ends it."""

    def __init__(self, trained: Trained):
        super().__init__(trained.tokenizer, skip_prompt=True)
        self.stop_tokens = stop_tokens(trained.model)

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt, int64 [1, tokens], and then each token, int64 [1]."""
        if self.next_tokens_are_prompt or int(value[0]) not in self.stop_tokens:
            TextStreamer.put(self, value)
