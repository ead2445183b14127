"""From texts to token rows, and the cache that keeps them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

import tiny
from distrain_trainer.data.text import Made, Shape, Text, windows
from distrain_trainer.data.tokens import encode, prepare
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.settings.model import Settings

BERT = tiny.wordpiece()
GPT2 = tiny.byte_bpe(None, "<|endoftext|>")
LLAMA = tiny.byte_bpe("<s>", "</s>")
CLS, SEP = BERT.cls_token_id, BERT.sep_token_id
TEXTS = [
    {"text": "the cat sat on the mat", "label": "cat"},
    {"text": "the lazy dog sat on the log", "label": "dog"},
    {"text": "a quick brown fox jumps", "label": "dog"},
    {"text": "good films make people happy", "label": "cat"},
]


def settings_of(tmp_path: Path, rows: list[dict[str, Any]], task: str = "causal-lm", **data: Any) -> Settings:
    """Settings for these rows, in a file of their own, without evaluation unless it is asked for."""
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"files": [str(file)], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0} | data
    return Settings.model_validate({"task": task, "data": data})


def tokenized(
    tmp_path: Path, rows: Any, task: str = "causal-lm", tokenizer: Any = GPT2, max_length: Any = 16, **data: Any
) -> Any:
    return prepare(settings_of(tmp_path, rows, task, **data), tokenizer, max_length, lambda _: None)


def refusal(kind: type[Exception], tmp_path: Path, *args: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        tokenized(tmp_path, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows_of(rows: Any) -> list[list[int]]:
    return [rows.input_ids[start:stop].tolist() for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]


def bare(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Tokens of a text without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def texts(*values: str | None) -> list[dict[str, Any]]:
    return [{"text": value} for value in values]


# Rows


def test_rows_are_what_the_tokenizer_itself_makes(tmp_path: Path) -> None:
    made = tokenized(tmp_path, TEXTS, "sequence-classification", BERT, 32)
    assert rows_of(made.train) == [BERT(row["text"])["input_ids"] for row in TEXTS]
    assert made.train.input_ids.dtype == made.train.lengths.dtype == np.int32
    assert made.train.offsets.dtype == np.int64
    assert made.train.words is None
    assert made.train.lengths.tolist() == [len(row) for row in rows_of(made.train)]


def test_a_truncated_row_is_what_the_tokenizer_itself_makes(tmp_path: Path) -> None:
    made = tokenized(tmp_path, TEXTS, "sequence-classification", BERT, 8)
    assert rows_of(made.train) == [BERT(row["text"], truncation=True, max_length=8)["input_ids"] for row in TEXTS]
    assert made.counts["train_truncated"] == sum(len(BERT(row["text"])["input_ids"]) > 8 for row in TEXTS) > 0
    left = tiny.wordpiece()
    left.truncation_side = "left"
    made = tokenized(tmp_path, TEXTS, "sequence-classification", left, 8)
    assert rows_of(made.train) == [left(row["text"], truncation=True, max_length=8)["input_ids"] for row in TEXTS]


def test_a_causal_text_ends_with_one_end_of_text_token(tmp_path: Path) -> None:
    made = tokenized(tmp_path, texts("the cat", "the dog<|endoftext|>"))
    end = GPT2.eos_token_id
    assert rows_of(made.train) == [[*GPT2("the cat")["input_ids"], end], GPT2("the dog<|endoftext|>")["input_ids"]]
    made = tokenized(tmp_path, texts("the cat"), tokenizer=LLAMA)
    assert rows_of(made.train) == [[LLAMA.bos_token_id, *bare(LLAMA, "the cat"), LLAMA.eos_token_id]]
    assert made.train.labels is None


def test_windows_of_a_causal_text_begin_with_its_start_and_only_the_last_ends(tmp_path: Path) -> None:
    text = tiny.LINES[0] * 2
    made = tokenized(tmp_path, texts(text), tokenizer=LLAMA, max_length=8)
    rows = rows_of(made.train)
    assert len(rows) > 2
    assert made.counts["train_split"] == 1
    assert all(row[0] == LLAMA.bos_token_id for row in rows)
    joined = [token for row in rows for token in row[1:]]
    assert joined == [*bare(LLAMA, text), LLAMA.eos_token_id]


@given(st.integers(1, 200), st.integers(2, 40), st.data())
def test_windows_with_stride_cover_every_token_once_as_a_target(length: int, room: int, data: Any) -> None:
    stride = data.draw(st.integers(0, room - 1))
    spans = list(windows(length, room, stride)) if length > room else [(0, length, 0)]
    assert [token for _, stop, fresh in spans for token in range(fresh, stop)] == list(range(length))
    assert all(stop - start <= room and fresh < stop for start, stop, fresh in spans)
    assert all(fresh - start == (stride if start else 0) for start, _, fresh in spans)

    shape = Shape([1], [2], [], room, "split", stride, keep_empty=False, left=False)
    made = Made()
    made.add(Text(list(range(100, 100 + length))), shape)
    assert [target for target in made.targets if target >= 100] == list(range(100, 100 + length))
    assert [word for word in made.words if word >= 0] == list(range(length))
    assert len(made.input_ids) == len(made.targets) == len(made.words) == sum(made.lengths)
    assert max(made.lengths) <= room + 2


def test_shared_tokens_of_causal_windows_are_no_targets(tmp_path: Path) -> None:
    text = tiny.LINES[0]
    made = tokenized(tmp_path, texts(text), max_length=8, stride=3)
    labels, ids = made.train.labels, made.train.input_ids
    assert labels.dtype == np.int32
    assert labels[labels != -100].tolist() == [*GPT2(text)["input_ids"], GPT2.eos_token_id]
    assert (labels[labels != -100] == ids[labels != -100]).all()
    starts = made.train.offsets[1:-1]
    assert all((labels[start : start + 3] == -100).all() and labels[start + 3] != -100 for start in starts)
    assert tokenized(tmp_path, texts("the cat"), max_length=16, stride=3).train.labels is None


def test_words_number_the_pieces_of_a_word_alike(tmp_path: Path) -> None:
    made = tokenized(tmp_path, texts("the wonderful zebra"), "masked-lm", BERT)
    tokens = BERT.convert_ids_to_tokens(made.train.input_ids.tolist())
    words = made.train.words.tolist()
    assert words[0] == words[-1] == -1
    expected, number = [], -1
    for token in tokens[1:-1]:
        number += not token.startswith("##")
        expected.append(number)
    assert words[1:-1] == expected
    assert max(expected) == 2
    assert made.train.labels is None


def test_shared_tokens_of_masked_windows_belong_to_no_word(tmp_path: Path) -> None:
    made = tokenized(tmp_path, texts(tiny.LINES[1]), "masked-lm", BERT, 8, stride=2)
    assert len(made.train) > 2
    ids, words = made.train.input_ids, made.train.words
    assert ids[words >= 0].tolist() == bare(BERT, tiny.LINES[1])
    for start in made.train.offsets[1:-1]:
        assert words[start : start + 3].tolist() == [-1, -1, -1]
        assert words[start + 3] >= 0


def test_long_texts_are_dropped_where_that_is_asked(tmp_path: Path) -> None:
    made = tokenized(tmp_path, texts("the cat", tiny.LINES[0]), max_length=8, long_texts="drop")
    assert len(made.train) == made.counts["train_rows"] == made.counts["train_dropped_long"] == 1
    sentence = refusal(DataError, tmp_path, texts(tiny.LINES[0]), max_length=8, long_texts="drop")
    assert "no row is left of 1 training texts (1 too long and dropped)" in sentence


def test_empty_texts_are_counted_and_dropped_or_kept(tmp_path: Path) -> None:
    rows = texts("", None, "the cat", "  ")
    made = tokenized(tmp_path, rows, "masked-lm", BERT)
    assert made.counts["train_texts"] == 4
    assert (made.counts["train_empty_dropped"], made.counts["train_rows"]) == (3, 1)
    made = tokenized(tmp_path, rows, "masked-lm", BERT, empty_texts="keep")
    assert (made.counts["train_empty_kept"], made.counts["train_rows"]) == (3, 4)
    assert rows_of(made.train)[0] == [CLS, SEP]
    nothing = PreTrainedTokenizerFast(tokenizer_object=GPT2.backend_tokenizer, pad_token="a")
    made = tokenized(tmp_path, texts("", "the cat"), tokenizer=nothing, empty_texts="keep")
    assert (made.counts["train_empty_dropped"], made.counts["train_rows"]) == (1, 1)


def test_clean_texts_are_normalized_and_folded(tmp_path: Path) -> None:
    made = tokenized(tmp_path, texts(" the\n\tcat  e\u0301 ", "the cat \u00e9"), clean=True)
    first, second = rows_of(made.train)
    assert first == second
    first, second = rows_of(tokenized(tmp_path, texts(" the\n\tcat  e\u0301 ", "the cat \u00e9")).train)
    assert first != second


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    rows = [{"text": " ".join(["cat"] * (i % 7 + 1)), "label": i % 2} for i in range(2500)]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert made.train.labels.tolist() == [i % 2 for i in range(2500)]
    one = len(bare(BERT, "cat"))
    assert made.train.lengths.tolist() == [(i % 7 + 1) * one + 2 for i in range(2500)]


def test_a_tokenizer_in_python_works_but_knows_no_words(tmp_path: Path) -> None:
    slow = ByT5Tokenizer()
    made = tokenized(tmp_path, texts("cat", "dog"), "masked-lm", slow)
    assert rows_of(made.train) == [slow(word)["input_ids"] for word in ("cat", "dog")]
    assert made.train.words.tolist() == [0, 1, 2, -1] * 2
    assert tokenized(tmp_path, texts("cat"), tokenizer=slow).train.input_ids.tolist() == slow("cat")["input_ids"]
    sentence = refusal(SettingsError, tmp_path, texts("cat"), "masked-lm", slow, mask_whole_words=True)
    assert "data.mask_whole_words needs a fast tokenizer" in sentence


def test_windows_without_room_for_text_are_refused(tmp_path: Path) -> None:
    assert "raise it to at least 3" in refusal(SettingsError, tmp_path, TEXTS, "masked-lm", BERT, 2)
    sentence = refusal(SettingsError, tmp_path, TEXTS, "masked-lm", BERT, 8, stride=6)
    assert "data.stride is 6 but a window holds 6 tokens of text" in sentence


def test_text_is_found_in_its_usual_columns_or_the_columns_are_listed(tmp_path: Path) -> None:
    for column in ("text", "sentence", "content"):
        assert len(tokenized(tmp_path, [{"id": 1, column: "the cat"}]).train) == 1
    sentence = refusal(DataError, tmp_path, [{"id": 1, "body": "the cat"}])
    assert "no column text or sentence or content; the columns are 'id', 'body': set data.text_column" in sentence
    sentence = refusal(DataError, tmp_path, TEXTS, text_column="body")
    assert "data.text_column 'body' is not a column of the data; the columns are 'text', 'label'" in sentence
    assert "column 'id' of the training rows holds int64" in refusal(DataError, tmp_path, [{"id": 1}], text_column="id")


# Rows that were tokenized before


def test_input_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7], "label": 1}, {"input_ids": [8], "label": 0}]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert rows_of(made.train) == [[5, 6, 7], [8]]
    assert made.train.labels.tolist() == [1, 0]
    made = tokenized(tmp_path, [{"input_ids": [CLS, 6, 7, SEP]}], "masked-lm", BERT)
    assert made.train.words.tolist() == [-1, 1, 2, -1]


def test_padding_of_rows_tokenized_before_is_left_out(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 0, 0], "attention_mask": [1, 1, 0, 0], "labels": [-100, 6, -100, -100]}]
    made = tokenized(tmp_path, rows)
    assert rows_of(made.train) == [[5, 6]]
    assert made.train.labels.tolist() == [-100, 6]


def test_long_rows_tokenized_before_are_sliced_with_their_labels(tmp_path: Path) -> None:
    rows = [{"input_ids": list(range(10)), "labels": [-100] * 5 + [5, 6, 7, 8, 9]}]
    made = tokenized(tmp_path, rows, max_length=8, stride=2)
    assert rows_of(made.train) == [list(range(8)), [6, 7, 8, 9]]
    assert made.train.labels.tolist() == [-100] * 5 + [5, 6, 7] + [-100, -100, 8, 9]
    assert tokenized(tmp_path, rows, max_length=8, long_texts="truncate").train.labels.tolist() == [-100] * 5 + [
        5,
        6,
        7,
    ]


@pytest.mark.parametrize(
    "row, told",
    [
        ({"input_ids": [5, 400]}, "training row 2 has 400 in input_ids, but the tokenizer has tokens 0 to 399"),
        ({"input_ids": [5, -1]}, "training row 2 has -1 in input_ids"),
        ({"input_ids": [5, 6], "labels": [5]}, "training row 2 has 2 input_ids but 1 labels; give one for each token"),
        ({"input_ids": [5, 6], "labels": [5, -7]}, "training row 2 has -7 in labels"),
        ({"input_ids": [5, None], "labels": [5, 6]}, "training row 2: input_ids is not a list of integers"),
    ],
)
def test_rows_that_were_tokenized_for_something_else_are_named(tmp_path: Path, row: Any, told: str) -> None:
    first = {"input_ids": [5]} | ({"labels": [5]} if "labels" in row else {})
    assert told in refusal(DataError, tmp_path, [first, row])


def test_targets_for_tokens_and_whole_words_do_not_fit_masked_rows(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6], "labels": [5, 6]}]
    assert "masked-lm draws its own" in refusal(DataError, tmp_path, rows, "masked-lm", BERT)
    sentence = refusal(SettingsError, tmp_path, rows, "masked-lm", BERT, mask_whole_words=True)
    assert "data.mask_whole_words needs texts" in sentence


# Labels


@pytest.mark.parametrize(
    "labels, names, ids",
    [
        (["b", "a", "b", "c"], ("a", "b", "c"), [1, 0, 1, 2]),
        ([10, 9, 2, 9], ("2", "9", "10"), [2, 1, 0, 1]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([2.0, 1.0, 2.0, 1.0], ("1", "2"), [1, 0, 1, 0]),
    ],
)
def test_ids_of_labels_are_contiguous_in_the_order_of_their_names(
    tmp_path: Path, labels: Any, names: Any, ids: Any
) -> None:
    rows = [{"text": "the cat", "label": label} for label in labels]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert made.label_names == names
    assert made.train.labels.tolist() == ids
    assert made.train.labels.dtype == np.int32


def test_class_labels_keep_their_own_order(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "x", "y"])}
    )
    rows = {"text": ["the cat"] * 3, "label": [0, 2, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    files = {"files": [str(tmp_path / "saved")]}
    made = tokenized(tmp_path, [], "sequence-classification", BERT, **files)
    assert made.label_names == ("z", "x", "y")
    assert made.train.labels.tolist() == [0, 2, 0]


def test_labels_stay_with_their_texts_when_texts_are_dropped(tmp_path: Path) -> None:
    rows = [{"text": "", "label": "x"}, {"text": "cat", "label": "b"}, {"text": "dog", "label": "a"}]
    made = tokenized(tmp_path, rows, "sequence-classification", BERT)
    assert [made.label_names[i] for i in made.train.labels] == ["b", "a"]


@pytest.mark.parametrize(
    "labels, told",
    [
        (["a", None, "b", None], "2 of 4 training rows have no label in column 'label' (null, empty or -1)"),
        ([0, 1, -1], "1 of 3 training rows have no label in column 'label' (null, empty or -1), the first is row 3"),
        ([0.5, 1.0], "row 1 has label 0.5 in column 'label', but classes are strings"),
        (["a", "a"], "every training row has label 'a' in column 'label'; a classification needs two classes"),
        (["a", 1, "b"], "column 'label' of the training rows holds int, str"),
    ],
)
def test_labels_that_name_no_class_are_refused(tmp_path: Path, labels: Any, told: str) -> None:
    rows = [{"text": "the cat", "label": label} for label in labels]
    assert told in refusal(DataError, tmp_path, rows, "sequence-classification", BERT)


def test_labels_that_only_evaluation_has_are_named(tmp_path: Path) -> None:
    parts = {"a": "train", "b": "train", "x": "test", "y": "test"}
    rows = [{"text": "cat", "label": label, "part": part} for label, part in parts.items()]
    sentence = refusal(DataError, tmp_path, rows, "sequence-classification", BERT, split_column="part")
    assert "labels in the evaluation rows but not in the training rows: 'x', 'y'; " in sentence


def test_a_missing_label_column_lists_the_columns(tmp_path: Path) -> None:
    sentence = refusal(DataError, tmp_path, texts("the cat"), "sequence-classification", BERT)
    assert "no column label or labels; the columns are 'text': set data.label_column" in sentence


# Prediction


def test_predicted_texts_keep_their_places(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, TEXTS, "sequence-classification", long_texts="drop")
    rows = encode(["the cat", "", tiny.LINES[0]], settings, BERT, 8)
    assert rows_of(rows) == [
        BERT(text, truncation=True, max_length=8)["input_ids"] for text in ("the cat", "", tiny.LINES[0])
    ]
    padded = tiny.byte_bpe(None, "<|endoftext|>")
    padded.pad_token = padded.eos_token
    assert rows_of(encode([""], settings, padded, 8)) == [[padded.pad_token_id]]
    assert len(encode([], settings, BERT, 8)) == 0


# The cache


def test_a_second_run_finds_the_same_rows(tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS, evaluation_fraction=0.5)
    first = prepare(settings, GPT2, 16, said.append)
    assert said == [
        f"0.jsonl, {(tmp_path / '0.jsonl').stat().st_size} bytes: reading and tokenizing",
        f"2 training texts became 2 rows, {first.counts['train_tokens']} tokens",
        f"2 evaluation texts became 2 rows, {first.counts['evaluation_tokens']} tokens",
    ]
    said.clear()
    second = prepare(settings, GPT2, 16, said.append)
    assert len(said) == 1
    assert said[0].endswith("from the cache")
    assert rows_of(second.train) == rows_of(first.train)
    assert rows_of(second.evaluation) == rows_of(first.evaluation)
    assert (second.fingerprint, second.counts, second.origin) == (first.fingerprint, first.counts, first.origin)
    (entry,) = [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]
    assert not [path for path in entry.iterdir() if path.suffix not in (".npy", ".json")]


def test_content_and_not_names_or_dates_decide_about_the_cache(tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS)
    first = prepare(settings, GPT2, 16, said.append)
    file = tmp_path / "0.jsonl"
    os.utime(file, (1, 1))
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint == first.fingerprint
    assert "from the cache" in said[0]
    file.write_bytes(file.read_bytes().replace(b"cat sat", b"dog sat"))
    os.utime(file, (1, 1))
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint != first.fingerprint
    assert "reading and tokenizing" in said[0]


@pytest.mark.parametrize("change", [{"max_length": 12}, {"clean": True}, {"tokenizer": LLAMA}, {"task": "masked-lm"}])
def test_what_changes_the_rows_is_not_met_in_the_cache(tmp_path: Path, change: Any) -> None:
    settings = settings_of(tmp_path, TEXTS)
    prepare(settings, GPT2, 16, lambda _: None)
    data = settings.data.model_copy(update={"clean": change.get("clean", False)})
    changed = settings.model_copy(update={"task": change.get("task", "causal-lm"), "data": data})
    said: list[str] = []
    prepare(changed, change.get("tokenizer", GPT2), change.get("max_length", 16), said.append)
    assert "reading and tokenizing" in said[0]


def test_a_tokenizer_is_the_same_after_it_was_used(tmp_path: Path) -> None:
    said: list[str] = []
    tokenizer = tiny.wordpiece()
    settings = settings_of(tmp_path, TEXTS, "masked-lm")
    prepare(settings, tokenizer, 16, said.append)
    tokenizer(["the cat", "a"], truncation=True, max_length=3, padding=True)
    said.clear()
    prepare(settings, tokenizer, 16, said.append)
    assert "from the cache" in said[0]


@pytest.mark.parametrize("damage", ["cut", "gone", "meta"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: Any) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS)
    first = prepare(settings, GPT2, 16, said.append)
    (entry,) = [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]
    if damage == "cut":
        array = entry / "train.input_ids.npy"
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "gone":
        (entry / "train.offsets.npy").unlink()
    else:
        (entry / "meta.json").write_text("{")
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint == first.fingerprint
    assert said[0] == f"the cache entry {entry} is damaged and is being rebuilt"


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sentence = refusal(SettingsError, tmp_path, TEXTS, cache=str(tmp_path / "file" / "cache"))
    assert f"the cache {tmp_path}/file/cache/tokens cannot be written (Not a directory); set data.cache" in sentence


PREPARE = """
import os, signal, sys
from transformers import PreTrainedTokenizerFast
from distrain_trainer.data import tokens
from distrain_trainer.settings.model import Settings
settings = Settings.model_validate_json(sys.argv[1])
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
if sys.argv[3] == "die":
    write = tokens._Files.append
    def dying(files, name, values):
        write(files, name, values)
        if files.part == "evaluation" and name == "input_ids":
            os.kill(os.getpid(), signal.SIGKILL)
    tokens._Files.append = dying
print("ready", flush=True)
sys.stdin.readline()
made = tokens.prepare(settings, tokenizer, 16, lambda sentence: print(sentence, flush=True))
print(made.fingerprint, "datasets" in sys.modules)
"""


def start(settings: Settings, folder: Path, how: str = "live") -> subprocess.Popen[str]:
    """A process that is ready to tokenize and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, settings.model_dump_json(exclude_unset=True), str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_leaves_no_half_entry_and_of_two_others_one_makes_it(tmp_path: Path) -> None:
    folder = tiny.tiny_tokenizer(tmp_path / "tokenizer")
    rows = [{"text": text} for text in tiny.LINES * 700]
    settings = settings_of(tmp_path, rows, "masked-lm", evaluation_fraction=0.5)
    tokens = tmp_path / "cache" / "tokens"
    dying, first, second = start(settings, folder, "die"), start(settings, folder), start(settings, folder)
    dying.communicate("\n")
    assert dying.returncode == -signal.SIGKILL
    assert [path.suffix for path in tokens.iterdir() if path.is_dir()] == [".making"]

    for process in (first, second):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines() for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert sorted(len(lines) for lines in said) == [2, 4]
    waited, made = sorted(said, key=len)
    assert "from the cache" in waited[0]
    assert "reading and tokenizing" in made[0]
    assert waited[-1].split()[0] == made[-1].split()[0]
    assert made[-1].split()[1] == "True"
    assert waited[-1].split()[1] == "False", "a hit does not import datasets"
    assert [path.suffix for path in tokens.iterdir() if path.is_dir()] == [""]
