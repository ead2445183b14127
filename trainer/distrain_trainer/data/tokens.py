"""Token rows of a run's data, cached by content."""

import errno
import hashlib
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from distrain_trainer.console import a_few
from distrain_trainer.data.chat import rows_of_conversations
from distrain_trainer.data.inputs import Input, texts_of, tokenize_inputs
from distrain_trainer.data.judged import rows_of_judged
from distrain_trainer.data.preferences import rows_of_preferences
from distrain_trainer.data.readers import Dropped, Refuse, refuse_all
from distrain_trainer.data.rows import ArrayFiles, Rows, mapped
from distrain_trainer.data.sources import Origin, cache_folder, held_out, label_column, locate, read
from distrain_trainer.data.table import Part, refuse_of
from distrain_trainer.data.text import Made, Shape, Text, shape_of
from distrain_trainer.errors import DataError, SettingsError, VolumeError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.tasks import TaskFacts
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.tasks.task import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURN = 10.0
"""Seconds for which the other processes of a machine let the first one make an entry."""
FORMAT = 3
"""Changes whenever the same data and settings give other arrays, so that old entries of the cache are not met."""
KEY_SETTINGS = (
    "text_column",
    "text_pair_column",
    "label_column",
    "label_columns",
    "split_column",
    "train_split",
    "evaluation_split",
    "stride",
    "empty_texts",
    "clean",
    "text_unit",
    "delimiter",
    "unlabelled",
    "encoding",
    "bad_rows",
)


@dataclass(frozen=True)
class Tokenized:
    """The data as the model takes it.

    label_names: classes in the order of their ids (classification), else None.
    fingerprint: 64 hex digits over all arrays and label names. counts: for `train_` and `evaluation_` each: texts,
    rows, tokens, empty_dropped, empty_kept, truncated, split (texts in several windows, conversations in several
    samples), dropped_long. A text is a conversation in task chat.
    """

    train: Rows
    evaluation: Rows | None
    label_names: tuple[str, ...] | None
    fingerprint: str
    counts: dict[str, int]
    origin: Origin


def prepare(
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    say: Callable[[str], None],
    first: bool = True,
) -> Tokenized:
    """The token rows of a run's data, from the cache or made now.

    max_length: tokens of the longest row, special tokens included. say: takes sentences for people. first: whether this
    process is the one of its machine that should make an entry, because it is the one that speaks.
    One process of a machine makes an entry, others wait for it without limit; an entry appears whole or not at all.
    Raises DataError for data that cannot be used, SettingsError for settings that do not fit the tokenizer and
    VolumeError where the cache's disk is full.
    """
    shape = shape_of(settings, tokenizer, max_length)
    origin = locate(settings.data)
    tokens = cache_folder(settings.data) / "tokens"
    key = _key(settings, tokenizer, max_length, origin)
    entry = tokens / key
    found = load_entry(entry, origin)
    if found is None:
        lock = FileLock(tokens / f"{key}.lock")
        try:
            tokens.mkdir(parents=True, exist_ok=True)
            if not first:
                _let_go_first(lock, entry)
            lock.acquire()
        except OSError as error:
            raise SettingsError(
                f"the cache {tokens} cannot be written ({error.strerror}); mount it writable, or set data.cache to a "
                "folder that can be written"
            ) from error
        try:
            found = load_entry(entry, origin)
            if found is None:
                return _make(settings, tokenizer, shape, origin, entry, say)
        finally:
            lock.release()
    rows, train_tokens = found.counts["train_rows"], found.counts["train_tokens"]
    say(f"{origin.description}: {rows:,} training rows, {train_tokens:,} tokens, from the cache")
    return found


def _let_go_first(lock: FileLock, entry: Path) -> None:
    """Waits a while for another process to make the entry. Raises OSError."""
    for _ in range(int(TURN / 0.1)):
        if entry.exists():
            return
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return
        lock.release()
        time.sleep(0.1)


def encode(
    inputs: Sequence[Input],
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    labels: Encoded | None = None,
) -> Rows:
    """Tokens of texts, pairs of them or words, for prediction, in memory.

    A text is one row always, truncated where it is longer; so is a source with its target. Words are as many windows as
    it takes, so that none is left out; their targets are their numbers where `labels` has no tags.
    The rows are those of training: a causal-lm text has its end-of-text token. A text without any token is one pad
    token, so that it keeps its place. labels: of the rows, or of the words of each.
    """
    words = settings.facts.holds == "words"
    whole: dict[str, Any] = {"long_texts": "split"} if words else {"long_texts": "truncate", "stride": 0}
    changed = {"data": settings.data.model_copy(update=whole)}
    shape = shape_of(settings.model_copy(update=changed), tokenizer, max_length, keep_empty=True)
    made = Made()
    framed = bool(shape.prefix or shape.suffix or shape.end)
    of_words, of_rows = divided(labels)
    for number, text in enumerate(tokenize_inputs(inputs, settings, tokenizer, shape, of_words)):
        nothing = Text([tokenizer.pad_token_id], targets=[IGNORE_INDEX], first=text.first and 1)
        made.add(text if text.input_ids or framed else nothing, shape, number)
    masked = np.asarray(made.words, np.int32) if settings.facts.target == "masked-token" else None
    offsets = np.concatenate([[0], np.cumsum(made.lengths)]).astype(np.int64)
    types = np.asarray(made.types, np.int8) if made.types else None
    firsts = np.asarray(made.firsts, np.int32) if made.firsts else None
    return Rows(
        np.asarray(made.input_ids, np.int32),
        offsets,
        labels=np.asarray(made.targets, np.int32) if words else of_rows,
        words=masked,
        types=types,
        texts=np.asarray(made.texts, np.int32) if words else None,
        firsts=firsts,
    )


def _key(settings: Settings, tokenizer: "PreTrainedTokenizerBase", max_length: int, origin: Origin) -> str:
    """Names the entry: everything that the arrays follow from."""
    data = settings.data
    parts = [
        FORMAT,
        origin.fingerprint,
        settings.task,
        {name: getattr(data, name) for name in KEY_SETTINGS} | {"evaluation_fraction": held_out(settings)},
        data.long_texts,
        max_length,
        _identity(tokenizer),
    ]
    if settings.facts.holds == "messages":
        parts += [tokenizer.chat_template, settings.chat.messages_column, settings.chat.tools_column]
    if settings.facts.compares:
        asked = settings.preference
        parts += [tokenizer.chat_template, asked.prompt_column, asked.chosen_column, asked.rejected_column]
        if asked.judges:
            parts += [asked.completion_column, asked.label_column, "judged"]
    if settings.facts.writes:
        parts += [data.target_column, data.max_target_length, data.text_prefix]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identity(tokenizer: "PreTrainedTokenizerBase") -> list[Any]:
    """What the tokenizer makes of a text follows from this."""
    special = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    settings = [type(tokenizer).__name__, special, tokenizer.truncation_side, tokenizer.split_special_tokens]
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        for changed_by_use in ("truncation", "padding"):
            state.pop(changed_by_use, None)
        return [*settings, state]
    with TemporaryDirectory() as folder:
        files = tokenizer.save_vocabulary(folder)
        digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    return [*settings, digests, sorted(tokenizer.get_vocab().items())]


def load_entry(entry: Path, origin: Origin) -> Tokenized | None:
    """The entry of the cache, or None where it is missing or not whole. Sizes are checked, bytes are not."""
    try:
        meta = json.loads((entry / "meta.json").read_text())
        parts: dict[str, Rows | None] = {"evaluation": None}
        for part, shapes in meta["arrays"].items():
            if (rows := mapped(entry, part, shapes)) is None:
                return None
            parts[part] = rows
        names = meta["label_names"]
        train = parts["train"]
        assert train is not None
        return Tokenized(
            train,
            parts["evaluation"],
            None if names is None else tuple(names),
            meta["fingerprint"],
            meta["counts"],
            origin,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _make(
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    origin: Origin,
    entry: Path,
    say: Callable[[str], None],
) -> Tokenized:
    """Makes the entry beside its place and renames it when it is whole."""
    if entry.exists():
        say(f"the cache entry {entry} is damaged and is being rebuilt")
        shutil.rmtree(entry)
    # A process that was killed leaves its folder; the next one of the same machine, which holds the lock, clears it.
    making = entry.with_name(f"{entry.name}.{socket.gethostname()}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        (making / "datasets").mkdir(parents=True)
        say(f"{origin.description}: reading and tokenizing")
        _fill(making, settings, tokenizer, shape, origin, say)
        shutil.rmtree(making / "datasets", ignore_errors=True)
        try:
            making.rename(entry)
        except OSError as error:
            # Another machine on the same volume was first; its entry is the same.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise VolumeError(f"the cache's disk is full ({entry.parent}); free space or set data.cache") from error
        raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    made = load_entry(entry, origin)
    assert made is not None
    return made


def _fill(
    folder: Path,
    settings: Settings,
    tokenizer: "PreTrainedTokenizerBase",
    shape: Shape,
    origin: Origin,
    say: Callable[[str], None],
) -> None:
    """Writes the arrays of both parts, then meta.json."""
    splits = read(settings, origin, folder / "datasets", say)
    parts = {"train": splits.train} | ({} if splits.evaluation is None else {"evaluation": splits.evaluation})
    labels, names = _labels(parts, settings, say)
    arrays: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    messages = settings.facts.holds == "messages"
    of_preferences = "answers" if settings.preference.judges else "pairs"
    noun = {"messages": "conversations", "preferences": of_preferences}.get(settings.facts.holds, "texts")
    for key, part in parts.items():
        of_rows = None
        refuse: Refuse = refuse_all
        if messages:
            refuse = refuse_of(settings.data)
            batches = rows_of_conversations(part, settings, tokenizer, shape.room, refuse)
        elif settings.facts.compares:
            refuse = refuse_of(settings.data)
            rows_of = rows_of_judged if settings.preference.judges else rows_of_preferences
            batches = rows_of(part, settings, tokenizer, shape, refuse)
        else:
            of_words, of_rows = divided(labels.get(key))
            batches = _made(texts_of(part, settings, tokenizer, shape, of_words), shape)
        arrays[key], counted = _write(folder, key, batches, of_rows, settings.facts)
        told = ", ".join(
            f"{counted[name]:,} {words}"
            for name, words in (
                ("empty_dropped", "empty and dropped"),
                ("empty_kept", "empty and kept"),
                ("truncated", "truncated"),
                ("split", "split"),
                ("dropped_long", "too long and dropped"),
            )
            if counted[name]
        )
        if isinstance(refuse, Dropped) and refuse.count:
            say(refuse.sentence)
        counts |= {f"{key}_{name}": count for name, count in counted.items()}
        if not counted["rows"]:
            raise DataError(f"no row is left of {counted['texts']:,} {part.name} {noun} ({told}); check the data")
        told = f" ({told})" if told else ""
        say(
            f"{counted['texts']:,} {part.name} {noun}{told} became {counted['rows']:,} rows, "
            f"{counted['tokens']:,} tokens"
        )
    meta = {
        "fingerprint": fingerprint_of(folder, names),
        "label_names": names,
        "counts": counts,
        "arrays": arrays,
        "origin": origin.description,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _labels(
    parts: dict[str, Part], settings: Settings, say: Callable[[str], None]
) -> tuple[dict[str, Encoded], tuple[str, ...] | None]:
    """The labels of each part's rows as numbers, and their names; none and None where they come from no column."""
    labelled = TASKS[settings.task].labelled
    if labelled is None:
        return {}, None
    columns = {key: label_column(part, settings) for key, part in parts.items()}
    found = {key: labelled.read(column) for key, column in columns.items()}
    labelled.check(found["train"], columns["train"].name)
    names = found["train"].names
    if "evaluation" in found and (unseen := sorted(found["evaluation"].used() - found["train"].used())):
        told = f"labels in the evaluation rows but not in the training rows: {a_few(unseen)}"
        if labelled.single:
            raise DataError(f"{told}; add training rows with them, or remove their rows from evaluation")
        say(f"{told}, so they cannot be learned")
        names += tuple(name for name in found["evaluation"].names if name not in names)
    return {key: labelled.encode(labels.values, names) for key, labels in found.items()}, names


def divided(labels: Encoded | None) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
    """The labels of the words of each row, and those of the rows: one of them, or none."""
    return (labels, None) if isinstance(labels, list) else (None, labels)


def _made(batches: Iterable[list[Text]], shape: Shape) -> Iterator[Made]:
    """The rows of each batch of texts."""
    numbers = count()
    for texts in batches:
        made = Made()
        for text in texts:
            made.add(text, shape, next(numbers))
        yield made


def _write(
    folder: Path, part: str, batches: Iterable[Made], labels: np.ndarray | None, facts: TaskFacts
) -> tuple[dict[str, int], Counter[str]]:
    """Writes one part's arrays batch by batch; returns their lengths and the counts.

    labels: of the texts, where they come from a column.
    """
    names = ("texts", "rows", "tokens", "empty_dropped", "empty_kept", "truncated", "split", "dropped_long")
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    with ArrayFiles(folder, part) as files:
        files.append("offsets", np.zeros(1, np.int64))
        targets_are_ids = True
        for made in batches:
            files.append("input_ids", made.input_ids)
            files.append("offsets", counts["tokens"] + np.cumsum(made.lengths, dtype=np.int64))
            if labels is not None:
                files.append("labels", labels[made.texts])
            elif facts.target == "masked-token":
                files.append("words", made.words)
            elif facts.writes:
                files.append("firsts", made.firsts)
            else:
                files.append("labels", made.targets)
                targets_are_ids &= made.targets == made.input_ids
            if facts.compares:
                files.append("firsts", made.firsts)
            if made.desirable:
                files.append("desirable", np.asarray(made.desirable, np.int8))
            if facts.target == "word":
                files.append("texts", made.texts)
            if made.types:
                files.append("types", np.asarray(made.types, np.int8))
            counts.update(made.counts)
        if facts.causal and facts.holds == "text" and targets_are_ids:
            files.discard("labels")
    return files.lengths, counts


def fingerprint_of(folder: Path, label_names: tuple[str, ...] | None) -> str:
    """64 hex digits over the arrays and what the labels are called."""
    total = hashlib.sha256(json.dumps(label_names).encode())
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
