"""Whatever is in a file, it becomes rows or one sentence that says where it is at fault."""

import csv
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distrain_trainer.data.tokens import prepare
from distrain_trainer.errors import DataError, DistrainError
from distrain_trainer.settings.model import Settings
from tokenizing import BERT

BOUND = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
names = st.sampled_from(["text", "label", "label", "text", "id", "", "text ", "Ünï\ncode"])
words = st.sampled_from(
    [
        "the cat",
        "dog",
        "",
        " ",
        "1",
        "-1",
        "01",
        "2.5",
        "1e5",
        "true",
        "NA",
        "ä",
        "\0",
        '"',
        'a"b',
        "x,y;z",
        "\r",
        "a\nb",
    ]
)
values = words | st.text(st.characters(codec="utf-8"), max_size=6)
encodings = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "cp1252"])


def attempt(file: Path, task: str, **data: Any) -> str | None:
    """Prepares a file's rows for a run; the sentence where that is refused, which must be one and name a place."""
    made = {"files": [str(file)], "cache": str(file.parent / "cache")} | data
    chosen = Settings.model_validate({"task": task, "data": made})
    try:
        rows = prepare(chosen, BERT, 16, lambda _: None)
    except DistrainError as error:
        sentence = str(error)
        assert error.exit_code in (64, 65) and sentence and "\n" not in sentence, sentence
        if isinstance(error, DataError) and "cannot be read" in sentence:
            assert file.name in sentence, sentence
        return sentence
    assert len(rows.train) == len(rows.train.lengths) > 0
    return None


@BOUND
@given(
    st.lists(names, min_size=1, max_size=4),
    st.lists(st.lists(values, max_size=5), max_size=8),
    encodings,
    st.sampled_from(["csv", "as it is"]),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["sequence-classification", "masked-lm"]),
)
def test_any_csv_file_becomes_rows_or_a_sentence(
    header: Any, rows: Any, encoding: str, quoting: str, delimiter: str, task: str
) -> None:
    written = io.StringIO(newline="")
    if quoting == "csv":
        csv.writer(written, delimiter=delimiter).writerows([header, *rows])
    else:
        written.write("\n".join(delimiter.join(row) for row in [header, *rows]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "strange.csv"
        file.write_bytes(written.getvalue().encode(encoding, errors="replace"))
        attempt(file, task)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)


@BOUND
@given(
    st.lists(st.dictionaries(names, json_values, max_size=4) | json_values, max_size=8),
    st.booleans(),
    encodings,
    st.sampled_from(["sequence-classification", "masked-lm"]),
)
@example([{"text": "\ud800", "label": 1}, {"text": "a", "label": 2}], False, "utf-8", "masked-lm")
def test_any_json_file_becomes_rows_or_a_sentence(rows: Any, array: bool, encoding: str, task: str) -> None:
    lines = json.dumps(rows) if array else "\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "strange.json"
        file.write_bytes(lines.encode(encoding))
        attempt(file, task)


@BOUND
@given(st.sampled_from(["csv", "json", "jsonl", "txt", "parquet", "csv.gz"]), st.binary(max_size=60))
def test_any_bytes_become_rows_or_a_sentence(ending: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"strange.{ending}"
        file.write_bytes(content)
        attempt(file, "masked-lm")


nested = st.sampled_from(
    [
        pa.array([{"a": [1, {"b": "c"}][:1]}, None, {"a": []}]),
        pa.array([[1, 2], [], None]),
        pa.array([["x"], None, ["y", "z"]]),
        pa.array([b"x", b"\xff", None]),
        pa.array([1.5, 2.0, float("nan")]),
        pa.array([1, 2, 1]),
        pa.array([True, False, None]),
        pa.array(["a", "b", "a"]),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array([1, 2, 3], pa.timestamp("s")),
        pa.array([1, 2, 3], pa.decimal128(5, 2)),
        pa.nulls(3),
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    ]
)


@BOUND
@given(
    st.lists(st.tuples(names, nested), min_size=1, max_size=4),
    st.sampled_from(["sequence-classification", "masked-lm"]),
)
def test_any_parquet_file_becomes_rows_or_a_sentence(columns: Any, task: str) -> None:
    table = pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "strange.parquet"
        pyarrow.parquet.write_table(table, file)
        attempt(file, task)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("text,label\na,x\n", "1 row cannot be divided"),
        ("text,label\n" + "a,x\n" * 30, "every training row has label 'x'"),
        (
            "text,label\n" + "".join(f"a,c{n}\n" for n in range(3000)),
            "none of the 3000 labels has rows to spare for evaluation",
        ),
        ("text,label\n" + "".join(f"a,c{n // 2}\n" for n in range(3000)), None),
        ("text,label\n" + ",\n" * 20, "20 of 20 training rows have no label"),
        ("text,text,label\na,b,c\nd,e,f\n", "line 1: the header has column 'text' twice"),
        ("text;label\na;b\n", "in which a semicolon seems to separate fields; set data.delimiter to semicolon"),
        ("I liked it,good\nnot me,bad\n", "give it a header line if that is a row"),
        ('text,label\na,b\n"c,d\ne,f\n', "lines 3 to 4: a double quote is opened and not closed"),
        ('text,label\na,b\n"c,d\ne,"f",g\n', "lines 3 to 4: a double quote is closed on another line"),
        ("text,label\na,b\n\0,c\n", "line 3 holds a NUL character"),
    ],
)
def test_what_is_said_of_strange_tables(tmp_path: Path, rows: str, told: str | None) -> None:
    file = tmp_path / "a.csv"
    file.write_text(rows)
    found = attempt(file, "sequence-classification")
    assert found is None if told is None else told in str(found)
    if told and re.match("(in which|line)", told):
        assert str(file) in str(found)
