"""Where rows come from, and what is said when they cannot be had."""

import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas
import pytest

import hub
from calls import calls_of
from distrain_trainer.data.sources import Origin, locate, read
from distrain_trainer.errors import DataError
from distrain_trainer.hub.errors import hub_sentence
from distrain_trainer.settings.sections import Data

ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(tmp_path: Path, task: str = "causal-lm", said: list[str] | None = None, **data: Any) -> Any:
    settings = Data(cache=str(tmp_path / "cache"), **data)
    folder = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
    say = (said if said is not None else []).append
    return read(settings, locate(settings), task, folder, say)


def refusal(tmp_path: Path, task: str = "causal-lm", **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, task, **data)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def located(**data: Any) -> Origin:
    return locate(Data(**data))


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
        assert splits.train.to_list() == ROWS, name
        assert splits.evaluation is None


def test_local_files_are_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    opened(tmp_path, files=[str(jsonl(tmp_path / "a.jsonl"))])
    assert not asked


def test_a_saved_format_does_not_come_back_as_tensors(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"input_ids": [1, 2]}]).with_format("numpy")
    rows.save_to_disk(tmp_path / "f")
    assert opened(tmp_path, files=[str(tmp_path / "f")], evaluation_fraction=0).train[0] == {"input_ids": [1, 2]}


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
    assert splits.train["text"][:] == expected * 2


def test_globs_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    jsonl(tmp_path / "deep" / "z.jsonl", ROWS[:2])
    jsonl(tmp_path / "a[1].jsonl", ROWS[2:4])
    splits = opened(tmp_path, files=[f"{tmp_path}/**/*.jsonl", f"{tmp_path}/a[1].jsonl"], evaluation_fraction=0)
    assert splits.train.to_list() == ROWS[2:4] + ROWS[:2]


def test_none_and_na_are_words_in_csv_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nNone,NA\nnull,nan\n,x\n")
    rows = opened(tmp_path, files=[str(tmp_path / "a.csv")], evaluation_fraction=0).train.to_list()
    assert [tuple(row.values()) for row in rows] == [("None", "NA"), ("null", "nan"), (None, "x")]


def test_nothing_but_the_content_of_files_makes_the_fingerprint(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    origin = located(files=[str(file)])
    assert origin.description == f"a.jsonl, {file.stat().st_size} bytes"
    os.utime(file, (1, 1))
    assert located(files=[str(file)]).fingerprint == origin.fingerprint
    assert located(files=[str(file.rename(tmp_path / "moved.jsonl"))]).fingerprint == origin.fingerprint
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(moved.read_bytes().replace(b"row 7", b"row 8"))
    changed = located(files=[str(moved)]).fingerprint
    assert changed != origin.fingerprint
    evaluated = located(files=[str(moved)], evaluation_files=[str(moved)]).fingerprint
    assert evaluated not in (changed, origin.fingerprint)


def test_changed_content_is_seen_at_once(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS[:2])
    assert len(opened(tmp_path, files=[str(file)], evaluation_fraction=0).train) == 2
    stat = file.stat()
    jsonl(file, ROWS[2:4])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened(tmp_path, files=[str(file)], evaluation_fraction=0).train.to_list() == ROWS[2:4]


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
    assert "mixes csv and json files" in mixed
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
    assert "a.jsonl, line 2: byte 10 is not UTF-8" in refusal(tmp_path, files=[str(tmp_path / "a.jsonl")])
    for name in ("a.csv", "a.txt"):
        (tmp_path / name).write_bytes(b"text\n\xff\n")
        assert f"{name} cannot be read: 'utf-8' codec" in refusal(tmp_path, files=[str(tmp_path / name)])


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.csv", b"text,label\na,1\nb,2,3\n", "Expected 2 fields in line 3, saw 3"),
        ("b.csv", b"text,label\na,1,x\nb,2,y\n", "rows have more fields than the header"),
        ("c.csv", b'text,label\n"a,1\n', "EOF inside string starting at row 1"),
        ("d.parquet", b"PAR1 this is no parquet", "Parquet magic bytes not found"),
        ("e.json", b'[{"text": "a"}, {"text"', "Expecting ':' delimiter: line 1"),
        ("f.csv.gz", gzip.compress(bytes(100_000), mtime=0)[:50], "Compressed file ended"),
    ],
)
def test_a_corrupt_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    sentence = refusal(tmp_path, files=[str(tmp_path / name)])
    assert f"{tmp_path / name} cannot be read: " in sentence
    assert told in sentence


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", ""), ("b.csv", "text,label\n"), ("c.jsonl", "\n\n"), ("d.txt", "\n\n")):
        (tmp_path / name).write_text(content)
        sentence = refusal(tmp_path, files=[str(tmp_path / name)])
        assert "is empty" in sentence or "has no rows" in sentence, sentence


def test_an_empty_file_among_others_is_no_harm(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl")
    (tmp_path / "a.jsonl").write_text("")
    assert len(opened(tmp_path, files=[f"{tmp_path}/*.jsonl"], evaluation_fraction=0).train) == 20


def test_a_split_column_divides_the_rows(tmp_path: Path) -> None:
    rows = [row | {"part": ["train", "test", "extra"][i % 3]} for i, row in enumerate(ROWS)]
    files = [str(jsonl(tmp_path / "a.jsonl", rows))]
    splits = opened(tmp_path, files=files, split_column="part")
    assert splits.train["text"][:] == [row["text"] for row in rows[::3]]
    assert splits.evaluation["text"][:] == [row["text"] for row in rows[1::3]]
    sentence = refusal(tmp_path, files=files, split_column="part", evaluation_split="dev")
    assert "'dev' is not a split of the data; the splits are 'train', 'test', 'extra'" in sentence
    sentence = refusal(tmp_path, files=files, split_column="fold")
    assert "'fold' is not a column of the data; the columns are 'text', 'label', 'part'" in sentence


def test_named_splits_are_taken_in_order_of_preference(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_list(ROWS[: i + 1]) for i, name in enumerate(["train", "dev", "test"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    files = [str(tmp_path / "d")]
    splits = opened(tmp_path, files=files)
    assert (len(splits.train), len(splits.evaluation)) == (1, 3)
    assert len(opened(tmp_path, files=files, train_split="test", evaluation_split="train").train) == 3
    assert "data.train_split 'training' is not a split" in refusal(tmp_path, files=files, train_split="training")
    datasets.Dataset.from_list(ROWS).select([]).save_to_disk(tmp_path / "none")
    assert "has a split without rows" in refusal(tmp_path, files=[str(tmp_path / "none")])
    assert "has splits already" in refusal(tmp_path, files=files, split_column="label")


def test_evaluation_files_are_evaluated_on(tmp_path: Path) -> None:
    train, evaluation = jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path / "b.jsonl", ROWS[:3])
    splits = opened(tmp_path, files=[str(train)], evaluation_files=[str(evaluation)])
    assert (len(splits.train), len(splits.evaluation)) == (20, 3)


def test_held_out_rows_are_those_of_train_test_split(tmp_path: Path) -> None:
    files = [str(jsonl(tmp_path / "a.jsonl"))]
    splits = opened(tmp_path, files=files, evaluation_fraction=0.25)
    expected = datasets.Dataset.from_list(ROWS).train_test_split(0.25, seed=42)
    assert splits.evaluation["text"][:] == sorted(expected["test"]["text"][:], key=lambda text: int(text[4:]))
    assert sorted(splits.train["text"][:] + splits.evaluation["text"][:]) == sorted(row["text"] for row in ROWS)


def test_held_out_rows_are_stratified_where_that_is_possible(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{"text": str(i), "label": int(i % 5 == 0)} for i in range(50)]
    files = [str(jsonl(tmp_path / "a.jsonl", rows))]
    splits = opened(tmp_path, "sequence-classification", said, files=files, evaluation_fraction=0.2)
    assert np.bincount(splits.evaluation["label"][:]).tolist() == [8, 2]
    assert not said
    files = [str(jsonl(tmp_path / "b.jsonl", [*rows, {"text": "x", "label": 2}]))]
    splits = opened(tmp_path, "sequence-classification", said, files=files, evaluation_fraction=0.2)
    assert len(splits.evaluation) == 11
    assert said == ["evaluation rows are drawn without stratification: label '2' has one row only"]


def test_stratified_rows_are_those_of_train_test_split(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"text": str(i), "label": "ab"[i % 5 == 0]} for i in range(50)])
    rows = rows.class_encode_column("label")
    rows.save_to_disk(tmp_path / "rows")
    expected = rows.train_test_split(0.3, seed=42, stratify_by_column="label")
    splits = opened(tmp_path, "sequence-classification", files=[str(tmp_path / "rows")], evaluation_fraction=0.3)
    assert splits.evaluation is not None
    assert splits.evaluation["text"][:] == sorted(expected["test"]["text"][:], key=int)
    assert splits.train["text"][:] == sorted(expected["train"]["text"][:], key=int)


@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification"])
def test_holding_out_rows_does_not_look_at_each_of_them(tmp_path: Path, task: str) -> None:
    calls = []
    for rows in (1_000, 8_000):
        made = datasets.Dataset.from_dict({"text": ["a"] * rows, "label": [i % 2 for i in range(rows)]})
        made.class_encode_column("label").save_to_disk(tmp_path / str(rows))
        files = [str(tmp_path / str(rows))]
        calls.append(calls_of(partial(opened, tmp_path, task, files=files)))
    assert calls[1] < 2 * calls[0]


def test_an_unlabelled_row_is_counted_from_the_file_and_not_from_the_split(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"text": "x", "label": None}, *ROWS]
    sentence = refusal(tmp_path, "sequence-classification", files=[str(jsonl(tmp_path / "a.jsonl", rows))])
    assert "1 of 41 training rows have no label in column 'label'" in sentence
    assert "the first is row 21" in sentence


def test_one_row_cannot_be_divided(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, files=[str(jsonl(tmp_path / "a.jsonl", ROWS[:1]))])
    assert "1 rows cannot be divided by data.evaluation_fraction = 0.1" in sentence


def test_files_whose_columns_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl")
    second = jsonl(tmp_path / "b.jsonl", [{"text": "x", "label": "a", "url": "y"}])
    sentence = refusal(tmp_path, files=[str(first), str(second)])
    assert f"{first}, {second} cannot be read" in sentence
    assert "columns that not all of them have: 'url'" in sentence


def test_a_path_is_not_taken_for_a_name_on_the_hub(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl")
    assert "is a path here, but names a data set on the Hub; use data.files" in refusal(tmp_path, name=str(file))


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TWO_LINES = b"".join(LINES.splitlines(keepends=True)[:2])
CONFIGURED = b"---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"
REPOSITORIES = {
    "datasets/owner/fine": hub.Repository({"train.jsonl": LINES, "test.jsonl": TWO_LINES}),
    "datasets/owner/private": hub.Repository({"train.jsonl": LINES}, private=True),
    "datasets/owner/gated": hub.Repository({"train.jsonl": LINES}, gated=True),
    "datasets/owner/parts": hub.Repository({"README.md": CONFIGURED, "a.jsonl": LINES, "b.jsonl": TWO_LINES}),
    "datasets/owner/corrupt": hub.Repository({"train.jsonl": b"hello\n"}),
    "datasets/owner/script": hub.Repository({"script.py": b"import os\n"}),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with hub.serve(REPOSITORIES) as running:
        yield running


@pytest.fixture
def reached(service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", service.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return service


def test_a_revision_becomes_a_commit(reached: Any) -> None:
    commit = REPOSITORIES["datasets/owner/fine"].commit
    origin = located(name="owner/fine", revision="main")
    assert origin.commit == commit
    assert origin.description == f"owner/fine at {commit[:7]}"
    assert located(name="owner/fine", config="x").fingerprint != origin.fingerprint
    reached.requests.clear()
    assert located(name="owner/fine", revision=commit) == origin
    assert not reached.requests


def test_what_the_hub_does_not_have_is_told_apart(reached: Any, tmp_path: Path) -> None:
    gone = refusal(tmp_path, name="owner/gone")
    assert "data set owner/gone is not on the Hub, or is private and HF_TOKEN is not set; check data.name" in gone
    assert "owner/private is not on the Hub, or is private" in refusal(tmp_path, name="owner/private")
    unknown = refusal(tmp_path, name="owner/fine", revision="v9")
    assert "data set owner/fine has no revision v9; choose a branch, tag or commit for data.revision" in unknown
    assert "is not a name on the Hub" in refusal(tmp_path, name="a b/c/d")


def test_a_token_without_access_is_told_from_none(
    reached: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sentence = refusal(tmp_path, name="owner/private")
    assert "the account of HF_TOKEN has no access" in sentence
    assert "hf_secret" not in sentence


def test_an_unreachable_hub_is_told_from_a_missing_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert "the Hub at http://127.0.0.1:9 cannot be reached" in refusal(tmp_path, name="owner/fine")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it, or fill the cache" in refusal(tmp_path, name="owner/fine")


READER = """
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from distrain_trainer.data.sources import locate, read
from distrain_trainer.errors import DataError
from distrain_trainer.settings.sections import Data
folder = Path(sys.argv[1])
for line in sys.argv[2:]:
    name, config, revision = (part or None for part in line.split(","))
    data = Data(name=name, config=config, revision=revision)
    try:
        splits = read(data, locate(data), "causal-lm", folder, print)
        print(len(splits.train), len(splits.evaluation))
    except DataError as error:
        print(error)
"""


def read_elsewhere(environment: dict[str, str], folder: Path, *lines: str) -> list[str]:
    """Rows of data sets, or the refusals, from a process that was started with this environment."""
    command = [sys.executable, "-c", READER, str(folder), *lines]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_data_sets_on_the_hub_are_read_or_refused_with_a_reason(service: Any, tmp_path: Path) -> None:
    environment = service.environment(tmp_path)
    lines = ["fine,,", "parts,b,", "parts,,", "parts,c,", "gated,,", "corrupt,,", "script,,"]
    fine, parts, unnamed, unknown, gated, corrupt, script = read_elsewhere(
        environment, tmp_path, *(f"owner/{line}" for line in lines)
    )
    assert fine == "20 2"
    assert parts == "1 1"
    assert unnamed == "data set owner/parts has several configurations; set data.config to one of ['a', 'b']"
    assert unknown == "data set owner/parts has no configuration 'c'; set data.config to one of ['a', 'b']"
    assert gated == (
        f"data set owner/gated is gated and HF_TOKEN is not set; accept its terms at "
        f"{service.url}/datasets/owner/gated and set HF_TOKEN to a token of that account"
    )
    assert corrupt.startswith("data set owner/corrupt at ") and "cannot be read: " in corrupt
    assert "scripts are no longer supported" in script

    commit = REPOSITORIES["datasets/owner/fine"].commit
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    cached, other, moving = read_elsewhere(
        offline, tmp_path, f"owner/fine,,{commit}", f"owner/fine,,{'0' * 40}", "owner/fine,,main"
    )
    assert cached == "20 2"
    assert "the cache holds another commit" in other
    assert "HF_HUB_OFFLINE is set" in moving


def test_the_sentence_follows_the_causes_of_a_wrapped_error(reached: Any) -> None:
    try:
        try:
            huggingface_hub.HfApi().model_info("owner/gone")
        except huggingface_hub.errors.RepositoryNotFoundError as error:
            raise OSError("owner/gone is not a local folder\nand a second line") from error
    except OSError as wrapped:
        sentence = hub_sentence(wrapped, "model", "owner/gone", None)
    assert sentence.startswith("model owner/gone is not on the Hub, or is private")
    assert "check model.name" in sentence
    plain = hub_sentence(OSError("no file named x.\nmore"), "model", "owner/odd", None)
    assert plain == "model owner/odd cannot be loaded: no file named x"
