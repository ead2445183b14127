"""From texts to rows: special tokens, windows, and what is a target.

A row is what the model sees as one sequence. A text becomes one row, or with long_texts=split several windows:

    text       t0 t1 t2 t3 t4 t5 t6         max_length 6, stride 1, special tokens [CLS] and [SEP]
    window 1   [CLS] t0 t1 t2 t3 [SEP]
    window 2   [CLS] t3 t4 t5 t6 [SEP]      t3 is context here: its target belongs to window 1

Each token of a text is a target in exactly one window. A causal-lm text ends with its end-of-text token, once, at the
end of the text and not of each window; only what precedes a text (<s>) stands before every window.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Texts that are tokenized together: memory stays flat."""


@dataclass(frozen=True)
class Shape:
    """How rows are made of texts.

    prefix, suffix: special tokens around each window. end: tokens at the end of each text. room: tokens of text that
    a window holds. left: truncation keeps the end of a text. learned: special tokens are targets of their own.
    """

    prefix: list[int]
    suffix: list[int]
    end: list[int]
    room: int
    long_texts: str
    stride: int
    keep_empty: bool
    left: bool
    learned: bool = True

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return len(self.prefix) + self.room + len(self.suffix)


@dataclass
class Text:
    """One text's tokens; words, targets and types, where there are some, one for each token.

    framed: whether special tokens are still to be put around. truncated: some of its tokens were left out already.
    first: of two texts in one, the tokens of the first; None where it is one.
    """

    input_ids: list[int]
    words: list[int] | None = None
    targets: list[int] | None = None
    types: list[int] | None = None
    framed: bool = True
    truncated: bool = False
    first: int | None = None


@dataclass
class Made:
    """Rows made of some texts, as flat lists, and what was counted on the way.

    texts: the text that each row is of. firsts: of rows of two texts, the tokens of the first. desirable: of judged
    answers, whether each is.
    """

    input_ids: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    desirable: list[bool] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, text: Text, shape: Shape, number: int = 0) -> None:
        """Appends the rows of one text. number: its own among all texts."""
        body = text.input_ids
        prefix, suffix, end = (shape.prefix, shape.suffix, shape.end) if text.framed else ([], [], [])
        room = shape.room if text.framed else shape.longest
        self.counts["texts"] += 1
        if not body:
            kept = shape.keep_empty and bool(prefix or suffix or end)
            self.counts["empty_kept" if kept else "empty_dropped"] += 1
            if not kept:
                return
        if text.first is not None:
            self._add_two(text, shape, number)
            return
        if end and body[-len(end) :] != end:
            body = body + end
        self.counts["truncated"] += text.truncated
        spans = [(0, len(body), 0)]
        if len(body) > room:
            if shape.long_texts == "drop":
                self.counts["dropped_long"] += 1
                return
            if shape.long_texts == "truncate":
                self.counts["truncated"] += 1
                first = len(body) - room if shape.left else 0
                spans = [(first, first + room, first)]
            else:
                self.counts["split"] += 1
                spans = list(windows(len(body), room, shape.stride))
        words = text.words if text.words is not None else range(len(body))
        targets = text.targets if text.targets is not None else body
        for start, stop, fresh in spans:
            context = fresh - start
            self.input_ids += [*prefix, *body[start:stop], *suffix]
            self.words += [-1] * (len(prefix) + context) + [*words[fresh:stop]] + [-1] * len(suffix)
            frame = (prefix, suffix) if shape.learned else ([IGNORE_INDEX] * len(x) for x in (prefix, suffix))
            before, after = frame
            self.targets += [*before, *[IGNORE_INDEX] * context, *targets[fresh:stop], *after]
            self.lengths.append(len(prefix) + stop - start + len(suffix))
            self.counts["rows"] += 1
            self.counts["tokens"] += self.lengths[-1]
            self.types += text.types[start:stop] if text.types is not None else ()
            self.texts.append(number)

    def _add_two(self, text: Text, shape: Shape, number: int) -> None:
        """Appends the row of two texts, which were shortened one by one."""
        assert text.first is not None
        if text.truncated:
            dropped = shape.long_texts == "drop"
            self.counts["dropped_long" if dropped else "truncated"] += 1
            if dropped:
                return
        self.input_ids += text.input_ids
        self.targets += text.targets or ()
        self.firsts.append(text.first)
        self.lengths.append(len(text.input_ids))
        self.counts["rows"] += 1
        self.counts["tokens"] += self.lengths[-1]
        self.texts.append(number)


def windows(length: int, room: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, first token that no window before has) of windows of `room` tokens that share `stride`."""
    for start in range(0, max(length - stride, 1), room - stride):
        yield start, min(start + room, length), start + stride if start else 0


def shape_of(
    settings: Settings, tokenizer: "PreTrainedTokenizerBase", max_length: int, keep_empty: bool = False
) -> Shape:
    """How rows are made under these settings; SettingsError where they do not fit the tokenizer."""
    data, facts = settings.data, settings.facts
    if data.mask_whole_words:
        words = tokenizer.is_fast and tokenizer.backend_tokenizer.pre_tokenizer is not None
        if not words:
            raise SettingsError(
                "data.mask_whole_words needs a fast tokenizer that divides texts into words, which this model's does "
                "not; set it to false"
            )
    if facts.holds == "words" and not tokenizer.is_fast:
        raise SettingsError(
            "token-classification needs a fast tokenizer, which tells the words of tokens; choose another model"
        )
    prefix, suffix = _frame(tokenizer) if facts.holds != "messages" else ([], [])  # a template writes its own
    end: list[int] = []
    if facts.causal and facts.holds != "messages":
        end, suffix = suffix, []
        if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in end:
            end = [*end, tokenizer.eos_token_id]
    room = max_length - len(prefix) - len(suffix)
    pair = data.text_pair_column is not None
    special = tokenizer.num_special_tokens_to_add(pair=True) if pair else len(prefix) + len(suffix)
    if max_length <= special + pair:
        raise SettingsError(
            f"data.max_length is {max_length} but {special} special tokens stand around each "
            f"{'pair of texts' if pair else 'text'}; raise it to at least {special + pair + 1}"
        )
    if data.stride >= room:
        raise SettingsError(
            f"data.stride is {data.stride} but a window holds {room} tokens of text; lower it below {room}"
        )
    left = tokenizer.truncation_side == "left"
    keep_empty = keep_empty or data.empty_texts == "keep"
    long_texts, learned = data.long_texts or facts.long_texts, facts.target != "word"
    return Shape(prefix, suffix, end, room, long_texts, data.stride, keep_empty, left, learned)


def _frame(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    if not tokenizer.is_fast:
        sentinel = -1
        framed: list[int] = tokenizer.build_inputs_with_special_tokens([sentinel])
        return framed[: framed.index(sentinel)], framed[framed.index(sentinel) + 1 :]
    probes = ("a", *tokenizer.get_vocab())
    probe = next(text for text in probes if tokenizer(text, add_special_tokens=False)["input_ids"])
    encoded = tokenizer(probe, return_special_tokens_mask=True)
    ids, of_text = encoded["input_ids"], np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    return ids[: of_text[0]], ids[of_text[-1] + 1 :]


def tokenize(texts: Sequence[str], settings: Settings, tokenizer: "PreTrainedTokenizerBase") -> Iterator[Text]:
    """Each text's tokens, with their words for masked-lm."""
    if not texts:  # which tokenizers do not take
        return
    encoded = tokenizer(
        [cleaned(text, settings) for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    for number, ids in enumerate(encoded["input_ids"]):
        words = None
        if settings.facts.target == "masked-token" and tokenizer.is_fast:
            words = [-1 if word is None else word for word in encoded.word_ids(number)]
        yield Text(ids, words)


def cleaned(text: str, settings: Settings) -> str:
    """The text; where `data.clean` asks for it in NFC, every run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split()) if settings.data.clean else text
