"""Rows that cannot be read are counted and left out where that is asked for; other encodings; Alpaca's shape."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chats import FIRST, LLAMA, PLAIN, SECOND, TAGGED, rows_of, tokenizer_of, written
from distrain_trainer.data.chat import use_template
from distrain_trainer.data.sources import locate, read
from distrain_trainer.data.tokens import prepare
from distrain_trainer.errors import DataError
from distrain_trainer.inference.generate import question_of
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Chat, Data


def opened(tmp_path: Path, file: Path, **data: Any) -> tuple[list[str], list[str]]:
    """The texts of a file, and what was said."""
    settings = Settings.model_validate(
        {"task": "causal-lm", "data": {"files": [str(file)], "evaluation_fraction": 0} | data}
    )
    said: list[str] = []
    splits = read(settings, locate(settings.data), tmp_path / "rows", said.append)
    return splits.train.values("text"), said


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n5\n\n{"text": "b"}\n', "a.jsonl, line 2: expecting value"),
        ("a.csv", "text,label\na,1\nx,1,2\nb,2\ny\n", "a.csv, line 3: 3 fields but the header has 2"),
        ("a.json", '[{"text": "a"}, 5, {"text": "b"}, []]', "a.json, row 2: int instead of an object"),
    ],
)
def test_bad_rows_are_counted_and_the_first_is_named(tmp_path: Path, name: str, content: str, first: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=r"line 2|line 3|row 2"):
        opened(tmp_path, file)
    texts, said = opened(tmp_path, file, bad_rows="drop")
    assert texts == ["a", "b"]
    assert said[0].startswith("2 bad rows are left out, the first: ") and first in said[0]


def test_bytes_that_are_no_text_are_bad_rows_too(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b"}\n')
    texts, said = opened(tmp_path, file, bad_rows="drop")
    assert texts == ["a", "b"] and "line 2: byte 11 is not UTF-8" in said[0]


def test_a_file_of_bad_rows_alone_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("5\n6\n")
    with pytest.raises(DataError, match=r"has no rows .2 bad rows are left out, the first: "):
        opened(tmp_path, file, bad_rows="drop")


def test_conversations_that_are_none_are_bad_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": FIRST},
        {"messages": [FIRST[0]]},
        {"messages": "x"},
        {"messages": SECOND},
    ]
    file = written(tmp_path / "a.jsonl", rows)
    found = []
    for some, bad in ((rows, "drop"), ([rows[0], rows[3]], "refuse")):
        written(file, some)
        data = {"files": [str(file)], "cache": str(tmp_path / "cache"), "evaluation_fraction": 0, "bad_rows": bad}
        said: list[str] = []
        settings = Settings.model_validate({"task": "chat", "data": data})
        found.append(prepare(settings, tokenizer_of(TAGGED), 60, said.append))
        told = [sentence for sentence in said if "bad rows" in sentence]
        assert len(told) == (bad == "drop") and all("a.jsonl, line 2 has no assistant turn" in one for one in told)
    assert found[0].train.input_ids.tolist() == found[1].train.input_ids.tolist()
    assert found[0].counts["train_texts"] == 2


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_files_are_read_in_their_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    content = {"a.csv": "text\ncafé\n", "a.jsonl": '{"text": "café"}\n', "a.txt": "café\n"}[name]
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert opened(tmp_path, tmp_path / name, encoding=encoding) == (["café"], [])
    with pytest.raises(DataError, match=r"(set data.encoding to|UTF-16)"):
        opened(tmp_path, tmp_path / name)
    if encoding != "utf-16":
        with pytest.raises(DataError, match=r"is not ascii, as data\.encoding says"):
            opened(tmp_path, tmp_path / name, encoding="ascii")


def test_an_encoding_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError, match="such as latin-1, cp1252 or utf-16"):
        Data(encoding="klingon")


@pytest.mark.parametrize("context", [None, "", "on the mat"])
def test_alpacas_columns_are_a_question_and_its_answer(context: str | None) -> None:
    row = {"instruction": "the cat?", "input": context, "output": "sat"}
    asked = "the cat?" + (f"\n\n{context}" if context else "")
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "sat"}]
    assert rows_of(PLAIN, row) == rows_of(PLAIN, {"messages": messages})
    assert question_of({name: row[name] for name in ("instruction", "input")}, Chat(), "row 1").messages == messages[:1]


def test_a_base_model_learns_the_answer_under_its_heading() -> None:
    tokenizer = tokenizer_of(None)
    use_template(tokenizer, Settings(task="chat", chat=Chat(template="alpaca")))
    ids, targets = rows_of(tokenizer.chat_template, {"instruction": "the cat?", "output": "sat"})[0]
    text = "<s>### Instruction:\nthe cat?\n\n### Response:\nsat</s>"
    assert str(LLAMA.decode(ids)).strip() == text
    assert LLAMA.decode([target for target in targets if target >= 0]) == "sat</s>"
