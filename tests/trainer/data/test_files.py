"""Local files: which are taken, what is in them, and what is said where they cannot be read."""

import gzip
import json
import socket
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from opening import ROWS, jsonl, listed, opened, refusal


def test_the_same_rows_come_from_every_format(tmp_path: Path) -> None:
    frame = pandas.DataFrame(ROWS)
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.json").write_text(json.dumps(ROWS, indent=1))
    frame.to_csv(tmp_path / "c.csv", index=False)
    frame.to_csv(tmp_path / "d.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "e.parquet")
    for name in ("a.jsonl", "b.json", "c.csv", "d.tsv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "f")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "g")
    names = ["a.jsonl", "b.json", "c.csv", "d.tsv", "e.parquet", "f", "g"]
    for name in names + [f"{name}.gz" for name in names[:4]]:
        splits = opened(tmp_path, files=[str(tmp_path / name)], evaluation_fraction=0)
        assert listed(splits.train) == ROWS, name
        assert splits.evaluation is None


def test_local_files_are_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    opened(tmp_path, files=[str(jsonl(tmp_path / "a.jsonl"))])
    assert not asked


def test_a_saved_format_does_not_come_back_as_tensors(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"input_ids": [1, 2]}]).with_format("numpy")
    rows.save_to_disk(tmp_path / "f")
    assert opened(tmp_path, files=[str(tmp_path / "f")], evaluation_fraction=0).train.rows[0] == {"input_ids": [1, 2]}


@pytest.mark.parametrize(
    "unit, expected",
    [
        ("line", ["one", "two", "", " ", "three", "", "", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("document", ["one\ntwo\n\n \nthree\n\n\nfour\n"]),
    ],
)
def test_text_files_become_lines_paragraphs_or_documents(tmp_path: Path, unit: str, expected: Any) -> None:
    content = b"one\r\ntwo\n\n \nthree\n\n\nfour\n"
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    splits = opened(tmp_path, files=[str(tmp_path / "*.txt*")], text_unit=unit, evaluation_fraction=0)
    assert splits.train.values("text") == expected * 2


def test_globs_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    jsonl(tmp_path / "deep" / "z.jsonl", ROWS[:2])
    jsonl(tmp_path / "a[1].jsonl", ROWS[2:4])
    splits = opened(tmp_path, files=[f"{tmp_path}/**/*.jsonl", f"{tmp_path}/a[1].jsonl"], evaluation_fraction=0)
    assert listed(splits.train) == ROWS[2:4] + ROWS[:2]


def test_none_and_na_are_words_in_csv_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nNone,NA\nnull,nan\n,x\n")
    rows = listed(opened(tmp_path, files=[str(tmp_path / "a.csv")], evaluation_fraction=0).train)
    assert [tuple(row.values()) for row in rows] == [("None", "NA"), ("null", "nan"), (None, "x")]


@pytest.mark.parametrize(
    ("late", "labels"),
    [("0,word", {"0", "1", "2"}), ("0,", {"0", "1", "2"}), ("none,", {"0", "1", "2", "none"})],
)
def test_a_columns_type_is_that_of_all_its_rows_and_of_no_other_column(
    tmp_path: Path, late: str, labels: set[str]
) -> None:
    early = "".join(f"a cat,{i % 3},\n" for i in range(12_000))
    (tmp_path / "a.csv").write_text(f"text,label,note\n{early}a cat,{late}\n")
    files = [str(tmp_path / "a.csv")]
    train = opened(tmp_path, "sequence-classification", files=files, evaluation_fraction=0).train
    assert {str(label) for label in train.values("label")} == labels


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.jsonl")
    assert f"data.files: {gone} is not there" in refusal(tmp_path, files=[gone])
    assert "matches no file" in refusal(tmp_path, files=[f"{tmp_path}/*.csv"])
    here = str(jsonl(tmp_path / "a.jsonl"))
    assert "data.evaluation_files: " in refusal(tmp_path, files=[here], evaluation_files=[gone])


def test_formats_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    assert "ends in none of .csv, .tsv, .json" in refusal(tmp_path, files=[str(tmp_path / "a.xlsx")])
    (tmp_path / "a.parquet.gz").write_text("x")
    assert "ends in none of" in refusal(tmp_path, files=[str(tmp_path / "a.parquet.gz")])
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("text\nx\n")
    mixed = refusal(tmp_path, files=[str(tmp_path / "a.csv"), str(tmp_path / "a.jsonl")])
    assert f"mixes csv ({tmp_path}/a.csv) and json ({tmp_path}/a.jsonl); name files of one format, such as" in mixed
    folder = refusal(tmp_path, files=[str(tmp_path)])
    assert f"{tmp_path} is a folder that save_to_disk did not write" in folder


@pytest.mark.parametrize(
    "lines, told",
    [
        ('{"text": "a"}\n{"text": "b\n', "line 2: unterminated string starting at (column 10)"),
        ('{"text": "a"}\n{"text": "b"} tail\n', "line 2: extra data (column 15)"),
        ('{"text": "a"}\nhello\n', "line 2: expecting value (column 1)"),
        ('{"text": "a"}\n\n["b"]\n', "line 3: list instead of an object"),
        ('{"text": "a"}\n5\n{"text": "b"}\n', "line 2: int instead of an object"),
    ],
)
def test_a_corrupt_line_is_named_with_its_number(tmp_path: Path, lines: Any, told: str) -> None:
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("b.jsonl", "c.jsonl.gz"):
        sentence = refusal(tmp_path, files=[str(tmp_path / "a.jsonl"), str(tmp_path / name)])
        assert f"{tmp_path / name}, {told}" in sentence


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    sentence = refusal(tmp_path, files=[str(tmp_path / "a.jsonl")])
    assert "a.jsonl, line 2: byte 11 is not UTF-8, as Windows-1252 or latin-1 it reads '" in sentence
    assert "ÿ" in sentence
    assert "convert it, such as with iconv -f WINDOWS-1252 -t UTF-8 a.jsonl > utf8-a.jsonl" in sentence
    for name in ("a.csv", "a.txt"):
        (tmp_path / name).write_bytes(b"text\n\xff\n")
        assert f"{name}, line 2: byte 1 is not UTF-8" in refusal(tmp_path, files=[str(tmp_path / name)])


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.csv", b"text,label\na,1\nb,2,3\n", ", line 3: 3 fields but the header has 2"),
        ("b.csv", b"text,label\na,1,x\nb,2,y\n", ", line 2: 3 fields but the header has 2"),
        ("c.csv", b'text,label\n"a,1\n', ", line 2: a double quote is opened and not closed"),
        ("d.parquet", b"PAR1 this is no parquet", " cannot be read: Parquet magic bytes not found"),
        ("e.json", b'[{"text": "a"}, {"text"', " cannot be read: Expecting ':' delimiter: line 1"),
        ("f.csv.gz", gzip.compress(bytes(100_000), mtime=0)[:50], " cannot be read: Compressed file ended"),
    ],
)
def test_a_corrupt_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    sentence = refusal(tmp_path, files=[str(tmp_path / name)])
    assert str(tmp_path / name) + told in sentence


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", ""), ("b.csv", "text,label\n"), ("c.jsonl", "\n\n"), ("d.txt", "\n\n")):
        (tmp_path / name).write_text(content)
        sentence = refusal(tmp_path, files=[str(tmp_path / name)])
        assert "is empty" in sentence or "has no rows" in sentence, sentence


def test_an_empty_file_among_others_is_no_harm(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl")
    (tmp_path / "a.jsonl").write_text("")
    assert len(opened(tmp_path, files=[f"{tmp_path}/*.jsonl"], evaluation_fraction=0).train) == 20


def test_files_whose_columns_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl")
    second = jsonl(tmp_path / "b.jsonl", [{"text": "x", "url": "y"}])
    files = [str(first), str(second)]
    assert len(opened(tmp_path, files=files, evaluation_fraction=0).train) == 21
    sentence = refusal(tmp_path, "sequence-classification", files=files)
    assert f"{second} has no column 'label', which other files have; " in sentence
    for file in (first, second):
        datasets.Dataset.from_json(str(file)).to_parquet(file.with_suffix(".parquet"))
    sentence = refusal(tmp_path, "sequence-classification", files=[f"{tmp_path}/*.parquet"])
    assert f"{tmp_path}/b.parquet has no column 'label', which other files have; " in sentence
