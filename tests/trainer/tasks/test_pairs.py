"""Two texts with one label: as the tokenizer joins them, from training to the pipeline."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.run import run
from labelled import PAIRS, evaluated, of_pairs, pair, predicted, rows_of, settings_of, written
from tokenizing import refusal, tokenized
from tokenizing import rows_of as ids_of
from tokenizing import settings_of as data_settings

TASK = "sequence-classification"
BERT = of_pairs()
NAMES: dict[str, Any] = {"text_column": "a", "text_pair_column": "b"}
ROWS: list[dict[str, Any]] = [
    {"a": tiny.LINES[0], "b": "a dog", "label": "x"},
    {"a": "the cat", "b": tiny.LINES[1], "label": "y"},
    {"a": "the cat", "b": None, "label": "y"},
]
TEXTS: list[Any] = [(row["a"], row["b"] or "") for row in ROWS]


@pytest.mark.parametrize("longest", [64, 12])
def test_rows_are_what_the_tokenizer_itself_makes_of_pairs(tmp_path: Path, longest: int) -> None:
    made = tokenized(tmp_path, ROWS, TASK, BERT, longest, **NAMES)
    firsts, seconds = map(list, zip(*TEXTS, strict=True))
    wanted: Any = BERT(firsts, seconds, truncation=True, max_length=longest)
    assert ids_of(made.train) == wanted["input_ids"]
    assert made.train.types.tolist() == [kind for row in wanted["token_type_ids"] for kind in row]
    assert made.counts["train_truncated"] == (2 if longest == 12 else 0)
    assert ids_of(encode(TEXTS, data_settings(tmp_path, ROWS, TASK, **NAMES), BERT, longest)) == ids_of(made.train)


def test_a_batch_tells_the_model_which_text_a_token_is_of(tmp_path: Path) -> None:
    settings = data_settings(tmp_path, ROWS, TASK, **NAMES)
    rows = tokenized(tmp_path, ROWS, TASK, BERT, 64, **NAMES).train
    collator = Collator.of(settings, rows, BERT)
    batch = collator(np.arange(3), 0)
    wanted = BERT([a for a, _ in TEXTS], [b for _, b in TEXTS], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], wanted[name]), name
    assert collator.empty()["token_type_ids"].tolist() == [[0]]


def test_a_model_that_is_not_told_of_two_texts_gets_no_types(tmp_path: Path) -> None:
    """As RoBERTa: its tokenizer puts two separators between them."""
    tokenizer = tiny.wordpiece()
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ends
    )
    made = tokenized(tmp_path, ROWS, TASK, tokenizer, 64, **NAMES)
    assert ids_of(made.train) == [tokenizer([a], [b])["input_ids"][0] for a, b in TEXTS]
    assert ids_of(made.train)[0].count(BERT.sep_token_id) == 3 and made.train.types is None


def test_pairs_are_dropped_where_both_texts_are_empty_or_together_too_long(tmp_path: Path) -> None:
    rows = [*ROWS, {"a": "", "b": None, "label": "x"}]
    made = tokenized(tmp_path, rows, TASK, BERT, 12, long_texts="drop", **NAMES)
    assert (made.counts["train_empty_dropped"], made.counts["train_dropped_long"]) == (1, 2)
    assert ids_of(made.train) == BERT(["the cat"], [""])["input_ids"]
    kept = tokenized(tmp_path, rows, TASK, BERT, 64, empty_texts="keep", **NAMES)
    assert ids_of(kept.train)[-1] == BERT([""], [""])["input_ids"][0]


def test_columns_of_pairs_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    assert "'c' is not a column of the data; the columns are 'a', 'b', 'label'" in refusal(
        DataError, tmp_path, ROWS, TASK, BERT, text_column="a", text_pair_column="c"
    )
    rows = [{"text": "the cat", "b": 7, "label": label} for label in "xy"]
    sentence = refusal(DataError, tmp_path, rows, TASK, BERT, text_pair_column="b", label_column="label")
    assert "line 1: column 'b' holds int, not text; name another data.text_pair_column" in sentence
    rows = [{"text": "the cat", "label": "x"}]
    sentence = refusal(SettingsError, tmp_path, rows, TASK, BERT, text_pair_column="text")
    assert "column 'text' is both texts of a pair" in sentence
    assert "3 special tokens stand around each pair of texts; raise it to at least 5" in refusal(
        SettingsError, tmp_path, ROWS, TASK, BERT, 4, **NAMES
    )
    with pytest.raises(ValueError, match=r"data\.text_pair_column is for tasks that give a text a label but task is"):
        Settings.model_validate({"task": "causal-lm", "data": {"text_pair_column": "b"}})
    with pytest.raises(ValueError, match=r"data\.text_pair_column is a, which is the column of the first text"):
        Settings.model_validate({"data": {"text_column": "a", "text_pair_column": "a"}})


def test_mnli_as_the_hub_has_it_can_be_named(tmp_path: Path) -> None:
    """Its columns, its classes' own order, a label of -1 where there is none, and its split for evaluation."""
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": label}
    )

    def split(labels: list[int]) -> datasets.Dataset:
        texts = {"premise": tiny.LINES[: len(labels)], "hypothesis": tiny.LINES[1 : len(labels) + 1]}
        return datasets.Dataset.from_dict(texts | {"label": labels}, features=features)

    splits = {"train": split([0, 1, 2, 0]), "validation_matched": split([2, 1]), "test_matched": split([-1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "mnli")
    named = {"text_column": "premise", "text_pair_column": "hypothesis", "evaluation_split": "validation_matched"}
    made = tokenized(tmp_path, [], TASK, BERT, 64, files=[str(tmp_path / "mnli")], **named)
    assert made.label_names == ("entailment", "neutral", "contradiction")
    assert made.train.labels.tolist() == [0, 1, 2, 0] and made.evaluation.labels.tolist() == [2, 1]
    assert ids_of(made.evaluation)[0] == BERT(tiny.LINES[0], tiny.LINES[1])["input_ids"]


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs, whose label is the topic of the second text."""
    folder = tmp_path_factory.mktemp("pairs")
    model = shutil.copytree(bert, folder / "model")
    BERT.save_pretrained(model)
    file = written(folder / "pairs.jsonl", 240, pair)
    run(settings_of(model, file, folder / "out", **PAIRS, **{"schedule.epochs": 8}), resume=False)
    return folder


def test_the_label_of_a_pair_is_learned_from_its_second_text(trained: Path) -> None:
    found = json.loads((trained / "out" / "training_info.json").read_text())["final"]
    assert found["accuracy"] > 0.85
    again = evaluated(trained / "out")
    assert {name: again[name] for name in found} == pytest.approx(found, abs=1e-6)


def test_predict_evaluate_and_the_pipeline_agree_on_pairs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "new.jsonl", 12, pair, seed=5)
    made, rows = predicted(trained / "out", file, tmp_path / "said.jsonl"), rows_of(file)
    assert [(row["text"], row["text_pair"]) for row in made] == [(row["premise"], row["hypothesis"]) for row in rows]
    final = trained / "out" / "final"
    classify = pipeline("text-classification", model=str(final), tokenizer=str(final))
    for row in made:
        theirs: Any = classify({"text": row["text"], "text_pair": row["text_pair"]})
        assert theirs["label"] == row["label"] and theirs["score"] == pytest.approx(row["score"], abs=1e-5)
    right = sum(row["label"] == wanted["label"] for row, wanted in zip(made, rows, strict=True)) / 12
    assert evaluated(trained / "out", file)["accuracy"] == pytest.approx(right)

    lines = json.dumps(rows[0]) + "\n" + json.dumps([rows[1]["premise"], rows[1]["hypothesis"]]) + "\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    predict_folder(str(final), None, None, 1)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in said] == [row["label"] for row in made[:2]]
    for line, told in ((b"the cat\n", "is not JSON"), (b'"the cat"\n', "is str; give one object with both texts")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
        with pytest.raises(DataError, match=told):
            predict_folder(str(final), None, None, 1)


def test_transformers_alone_gives_the_logits_of_a_pair(trained: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "one.jsonl", 1, pair, seed=6)
    (row,), (made,) = rows_of(file), predicted(trained / "out", file, tmp_path / "said.jsonl")
    final = trained / "out" / "final"
    model = AutoModelForSequenceClassification.from_pretrained(final).eval()
    assert model.config.problem_type == "single_label_classification"
    inputs = AutoTokenizer.from_pretrained(final)(row["premise"], row["hypothesis"], return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits.softmax(-1)[0].tolist()
    assert list(made["scores"].values()) == pytest.approx(scores, abs=1e-5)
