"""From conversations to rows: the tokenizer's chat template writes them, and only the assistant's turns are learned.

Which characters a turn is comes from the template itself. One with `{% generation %}` tags says so; with any other a
turn is what stands behind the prompt for it:

    messages up to the turn, with the prompt     <user>hello<end><assistant>
    messages with the turn                       <user>hello<end><assistant>good day<end>
    learned                                                                 good day<end>

Usually each of these texts begins the next, and a conversation is one sample. A template that writes earlier turns in
another way (without their reasoning, say) makes a sample of each turn, as the model will meet it. A text is tokenized
whole, without special tokens of the tokenizer's own; a token that only reaches into a turn belongs to it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distrain_trainer.console import a_few
from distrain_trainer.data.conversations import Conversation, Message, Tools, columns_of, conversation_of
from distrain_trainer.data.readers import Dropped, Refuse, refuse_all
from distrain_trainer.data.table import Part
from distrain_trainer.data.templates import TEMPLATES
from distrain_trainer.data.text import BATCH, Made
from distrain_trainer.errors import DataError, SettingsError, first_line
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""First character, and the one after the last."""
TAGS = re.compile(r"\{%-?\s*generation\s*-?%\}")
REASONING = ("reasoning_content", "reasoning", "thinking")
TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
ROW = "row"
"""What a row is called in an error until its place is looked up."""
DAY = date(2025, 1, 1)
"""What a template that writes today's date takes for today: rows must not change from one day to the next."""


def use_template(tokenizer: "PreTrainedTokenizerBase", settings: Settings) -> None:
    """Gives the tokenizer of a chat run the template of `chat.template`; SettingsError where there is none at all.

    Pairs of answers may do without: they are messages or texts.
    """
    if settings.facts.holds not in ("messages", "preferences"):
        return
    file, name = settings.chat.template, settings.model.name
    if file in TEMPLATES:
        tokenizer.chat_template = TEMPLATES[file]
    elif file is not None:
        try:
            tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"chat.template {file} cannot be read ({error}); check the path (or name one of {a_few(TEMPLATES)})"
            ) from error
    if not tokenizer.chat_template and settings.facts.holds == "messages":
        raise SettingsError(
            f"the tokenizer of {name} has no chat template; set chat.template to a file that holds one, or to alpaca"
        )
    if not tokenizer.is_fast:
        raise SettingsError(
            f"the tokenizer of {name} is not a fast one, which task {settings.task} needs; choose another model"
        )


@dataclass(frozen=True)
class Sample:
    """A text to learn from.

    where: what the row is called in errors. cuts: places where it may end, each with what is learned up to there; the
    last is its whole length.
    """

    where: str
    text: str
    cuts: list[tuple[int, list[Span]]]


@dataclass(frozen=True)
class Encoded:
    """A text's tokens: ids; begins, ends: int64 [tokens], their characters."""

    ids: list[int]
    begins: np.ndarray
    ends: np.ndarray

    def targets(self, spans: list[Span]) -> list[int]:
        """The ids of the tokens that reach into a span, -100 for all others."""
        targets = [IGNORE_INDEX] * len(self.ids)
        for start, stop in spans:
            first = int(np.searchsorted(self.ends, start, side="right"))
            after = int(np.searchsorted(self.begins, stop, side="left"))
            targets[first:after] = self.ids[first:after]
        return targets


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template at work."""

    tokenizer: "PreTrainedTokenizerBase"

    @cached_property
    def added(self) -> tuple[str, ...]:
        """Tokens that stand for themselves, such as those that end a turn."""
        return tuple(self.tokenizer.added_tokens_encoder)

    def render(self, messages: Sequence[Message], tools: Tools | None, prompt: bool = False) -> tuple[str, list[Span]]:
        """The text of messages, and what is inside `{% generation %}` tags. prompt: with the beginning of an answer.

        Raises whatever the template raises.
        """
        try:
            return self._render(messages, tools, prompt)
        except TypeError:
            # Some templates join arguments to other text, and so want them as JSON.
            if not any("tool_calls" in message for message in messages):
                raise
            return self._render([_with_json_arguments(message) for message in messages], tools, prompt)

    def _render(self, messages: Sequence[Message], tools: Tools | None, prompt: bool) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        source = TODAY.sub(lambda found: repr(DAY.strftime(found[2])), self._source(tools))
        tagged = self._tagged(tools)
        special: dict[str, Any] = self.tokenizer.special_tokens_map
        rendered: Any = render_jinja_template(
            conversations=[list(messages)],
            tools=[*tools] if tools else None,
            chat_template=source,
            return_assistant_tokens_mask=tagged,
            add_generation_prompt=prompt,
            **special,
        )
        (text,), spans = rendered
        return text, spans[0] if tagged else []

    def _source(self, tools: Tools | None) -> str:
        return self.tokenizer.get_chat_template(None, [*tools] if tools else None)

    def _tagged(self, tools: Tools | None) -> bool:
        """Whether the template itself says what is the assistant's."""
        return TAGS.search(self._source(tools)) is not None

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Tokens of texts, with nothing before or after them."""
        if not texts:  # which tokenizers do not take
            return []
        found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = [np.asarray(offsets, np.int64).reshape(-1, 2) for offsets in found["offset_mapping"]]
        return [Encoded(ids, *pair.T) for ids, pair in zip(found["input_ids"], pairs, strict=True)]

    def samples(self, conversation: Conversation, where: str) -> list[Sample]:
        """The samples of a conversation: one, or one an assistant turn where the template rewrites earlier turns.

        Raises DataError where the template refuses the conversation, leaves out what is to be learned, or nothing is.
        """
        messages, tools = conversation.messages, conversation.tools
        turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        try:
            written = [self.render(messages[: n + 1], tools) for n in turns]
            own = [self._turn(messages, tools, n, *found, where) for n, found in zip(turns, written, strict=True)]
        except DataError:
            raise
        except Exception as error:  # a template is a program of others and may raise anything
            raise DataError(
                f"{where}: the chat template refuses it ({first_line(error)}); correct the row, or set chat.template "
                f"to another one; it is {shown(json.dumps(messages, ensure_ascii=False))}"
            ) from error
        wanted = [messages[n].get("weight") != 0 for n in turns]  # OpenAI's way to leave a turn out
        left_out = {span for spans, keep in zip(own, wanted, strict=True) if not keep for span in spans}
        own = [spans if keep else [] for spans, keep in zip(own, wanted, strict=True)]
        if not any(own):
            text = written[-1][0] if written else json.dumps(messages, ensure_ascii=False)
            raise DataError(f"{where} has no assistant turn to learn; correct or remove it; it is {shown(text)}")
        whole = written[-1][0]
        if all(whole.startswith(text) for text, _ in written):
            self._check(conversation, turns, 0, where, whole)
            # Tags are those of the text as it is cut; without tags a text has the turns of all that it begins with.
            spans = [
                [tag for tag in tags if tag not in left_out]
                if tags
                else [span for part in own[: n + 1] for span in part]
                for n, (_, tags) in enumerate(written)
            ]
            cuts = [(len(text), learned) for (text, _), learned in zip(written, spans, strict=True) if learned]
            return [Sample(where, whole, cuts)]
        found = [(n, text, spans) for n, (text, _), spans in zip(turns, written, own, strict=True) if spans]
        for n, text, _ in found:
            self._check(conversation, [n], n, where, text)
        return [Sample(where, text, [(len(text), spans)]) for _, text, spans in found]

    def _turn(
        self, messages: list[Message], tools: Tools | None, n: int, text: str, tags: list[Span], where: str
    ) -> list[Span]:
        """What of `text`, the rendering of all messages up to the assistant's message `n`, is that message."""
        if self._tagged(tools):
            before = self.render(messages[:n], tools)[0] if n else ""
            pairs = enumerate(zip(before, text, strict=False))
            same = next((at for at, (one, other) in pairs if one != other), len(before))
            return [span for span in tags if span[0] >= same]
        if n == 0:  # what no prompt asks for is context
            return []
        prompt, _ = self.render(messages[:n], tools, prompt=True)
        if not text.startswith(prompt):
            raise DataError(
                f"{where}: the chat template does not begin message {n + 1} with its prompt; set chat.template "
                f"to one that does; the prompt is {shown(prompt)}"
            )
        return [(len(prompt), self.turn_stop(text, len(prompt)))]

    def turn_stop(self, text: str, start: int) -> int:
        """Where the assistant's turn that begins at `start` stops: the line break after an end token is never
        generated."""
        ended = text[start:].rstrip()
        return start + len(ended) if ended.endswith(self.added) else len(text)

    def _check(self, conversation: Conversation, learned: list[int], last: int, where: str, text: str) -> None:
        """Refuses a text that is without tools, a message, a call, an answer to one, or reasoning that it should have.

        learned: assistant's messages that are learned. last: answers to calls count behind the user's turn before it.
        """
        messages, tools = conversation.messages[: learned[-1] + 1], conversation.tools
        if tools and self._same_without_tools(messages, tools, text):
            raise DataError(
                f"{where} has tools, but the chat template writes the same text without them; set chat.template to one "
                f"that knows tools; the text is {shown(text)}"
            )
        since = max((n for n in range(last) if messages[n]["role"] == "user"), default=0)
        marked = [Marked.of(message, n, n in learned, n >= since) for n, message in enumerate(messages)]
        if not any(mark.words for mark in marked):
            return
        try:
            found, _ = self.render([mark.message for mark in marked], tools)
        except Exception:  # it refuses the marks and not the row, so there is nothing to tell
            return
        lost = [what for mark in marked for word, what in mark.words.items() if word not in found]
        if lost:
            raise DataError(
                f"{where}: the chat template leaves out {lost[0]}; set chat.template to one that writes it; the text "
                f"is {shown(text)}"
            )

    def _same_without_tools(self, messages: list[Message], tools: Tools, text: str) -> bool:
        try:
            return self.render(messages, None)[0] == text
        except Exception:
            return False


@dataclass(frozen=True)
class Marked:
    """A message with words of its own in place of what a rendering must show. words: each with what it stands for."""

    message: Message
    words: dict[str, str]

    @staticmethod
    def of(message: Message, n: int, learned: bool, answers: bool) -> "Marked":
        """learned: calls and reasoning must be shown. answers: what a tool answered must be shown."""
        changed, words, content = dict(message), {}, message.get("content") or ""
        word = f"mark{n}x"
        if learned:
            reasoning = [key for key in REASONING if message.get(key)]
            inside, thought, rest = content.rpartition("</think>")
            if inside.replace("<think>", "").strip():
                changed["content"] = f"<think>\n{word}reasoning\n{thought}{rest}"
            changed |= dict.fromkeys(reasoning, f"{word}reasoning")
            if reasoning or changed.get("content") != message.get("content"):
                words[f"{word}reasoning"] = f"the reasoning of message {n + 1}"
            calls = []
            for number, call in enumerate(message.get("tool_calls", ())):
                function, mark = call["function"], f"{word}call{number}x"
                words[f"{mark}name"] = f"the call of {function['name']} in message {n + 1}"
                arguments = function["arguments"]
                if arguments:
                    words[f"{mark}value"] = f"the arguments of {function['name']} in message {n + 1}"
                    arguments = dict.fromkeys(arguments, f"{mark}value")
                calls.append(call | {"function": function | {"name": f"{mark}name", "arguments": arguments}})
            if calls:
                changed["tool_calls"] = calls
        elif message["role"] in ("tool", "ipython") and answers and content.strip():
            changed["content"] = f"{word}answer"
            words[f"{word}answer"] = f"the tool's answer in message {n + 1}"
        elif message["role"] not in ("assistant", "tool", "ipython") and content.strip():
            # Between two words: templates look for switches, and at how a message begins and ends.
            half = len(content) // 2
            spaces = (space.start() for space in re.finditer(r"\s", content))
            middle = min(spaces, key=lambda at: abs(at - half), default=half)
            changed["content"] = f"{content[:middle]}{word}text{content[middle:]}"
            words[f"{word}text"] = f"message {n + 1}, whose role is {message['role']}"
        return Marked(changed, words)


def _with_json_arguments(message: Message) -> Message:
    """The message with the arguments of its calls as JSON texts."""
    calls = []
    for call in message.get("tool_calls", ()):
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append(call | {"function": call["function"] | {"arguments": arguments}})
    return message | {"tool_calls": calls} if calls else message


def shown(text: str) -> str:
    """A text in a sentence: quoted, in one line, its middle left out where it is long."""
    return json.dumps(text if len(text) <= 600 else f"{text[:300]} ... {text[-300:]}", ensure_ascii=False)


def rows_of_conversations(
    part: Part,
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    refuse: Refuse = refuse_all,
) -> Iterator[Made]:
    """The token rows of conversations, batch by batch. refuse: takes the error of one that is none, and raises it or
    not.

    What is longer than `max_length` tokens loses whole turns at its end, or is dropped where not even the first
    assistant turn fits, or with long_texts=drop.
    """
    columns, template = columns_of(part.source.columns, settings.chat), Template(tokenizer)
    names = columns.names
    for name in names:  # a file may well have no tools where another has
        if name in columns.messages or name not in part.rows.column_names:
            part.column(name, (), "chat.messages_column")
    first = 0
    for batch in part.rows.select_columns(names).iter(BATCH):
        conversations: list[list[Sample]] = []
        for index, values in enumerate(zip(*(batch[name] for name in names), strict=True), first):
            conversations.append([])
            with placed(part, index, refuse):
                row = dict(zip(names, values, strict=True))
                conversations[-1] = template.samples(conversation_of(row, columns, ROW), ROW)
        encoded = iter(template.encode([sample.text for samples in conversations for sample in samples]))
        made = Made()
        for index, samples in enumerate(conversations, first):
            of_samples = [next(encoded) for _ in samples]
            fitted = []
            with placed(part, index, refuse):
                fitted = [
                    fit(sample, tokens, template, max_length)
                    for sample, tokens in zip(samples, of_samples, strict=True)
                ]
            if not fitted:  # it was refused
                continue
            whole = all(cut == len(sample.text) for sample, (cut, _, _) in zip(samples, fitted, strict=True))
            kept = [(ids, targets) for _, ids, targets in fitted if ids]
            if settings.data.long_texts == "drop" and not whole:
                kept = []
            made.counts["texts"] += 1
            made.counts["dropped_long"] += not kept
            made.counts["truncated"] += bool(kept) and not whole
            made.counts["split"] += len(kept) > 1
            for ids, targets in kept:
                made.input_ids += ids
                made.targets += targets
                made.lengths.append(len(ids))
                made.counts["rows"] += 1
                made.counts["tokens"] += len(ids)
        first += len(conversations)
        yield made


@contextmanager
def placed(part: Part, index: int, refuse: Refuse) -> Iterator[None]:
    """Says in errors about ROW where the row is, which is looked up only then."""
    try:
        yield
    except DataError as error:
        known = isinstance(refuse, Dropped) and refuse.count > 0  # a file is read again for a place
        refuse(DataError(f"{ROW if known else part.place(index)}{str(error).removeprefix(ROW)}"))


def fit(sample: Sample, encoded: Encoded, template: Template, max_length: int) -> tuple[int, list[int], list[int]]:
    """(characters, ids, targets) of as many whole turns of a sample as fit into `max_length` tokens; no ids if none do.

    encoded: the sample's whole text. Raises DataError where no token is a target.
    """
    for cut, spans in reversed(sample.cuts):
        tokens = encoded if cut == len(sample.text) else template.encode([sample.text[:cut]])[0]
        if len(tokens.ids) > max_length:
            continue
        targets = tokens.targets(spans)
        if all(target == IGNORE_INDEX for target in targets):
            raise DataError(
                f"{sample.where} has nothing to learn: the chat template leaves its assistant turns empty; correct or "
                f"remove it; it is {shown(sample.text)}"
            )
        return cut, tokens.ids, targets
    return 0, [], []


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends an answer in this tokenizer's template, None where there is none."""
    word = "answer"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": word}]
    try:
        text, _ = Template(tokenizer).render(messages, None)
    except Exception:  # it takes no such conversation
        return None
    _, found, rest = text.rpartition(word)
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"] if found else []
    return next((token for token in ids if token in tokenizer.added_tokens_decoder), None)
