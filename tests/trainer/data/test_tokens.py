"""From texts to token rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

import tiny
from distrain_trainer.data.text import Made, Shape, Text, windows
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError, SettingsError
from tokenizing import BERT, CLS, GPT2, LLAMA, SEP, TEXTS, bare, refusal, rows_of, settings_of, texts, tokenized

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
    assert "line 1: column 'id' holds int, not text" in refusal(DataError, tmp_path, [{"id": 1}], text_column="id")


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
        ({"input_ids": [5, 400]}, "0.jsonl, line 2 has 400 in input_ids, but the tokenizer has tokens 0 to 399"),
        ({"input_ids": [5, -1]}, "0.jsonl, line 2 has -1 in input_ids"),
        ({"input_ids": [5, 6], "labels": [5]}, "0.jsonl, line 2 has 2 input_ids but 1 labels; give one for each token"),
        ({"input_ids": [5, 6], "labels": [5, -7]}, "0.jsonl, line 2 has -7 in labels"),
        ({"input_ids": [5, None], "labels": [5, 6]}, "0.jsonl, line 2: input_ids is not a list of integers"),
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
