"""Words with a tag each: of entities, or for themselves."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seqeval import metrics as seqeval_metrics
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn_metrics
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.metrics.entities import are_marked, entities
from distrain_trainer.settings.tasks import Task
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.tasks.table import TASKS, check_metric
from distrain_trainer.tasks.tags import score
from distrain_trainer.training.evaluation import joined
from distrain_trainer.training.run import run
from labelled import evaluated, people, predicted, rows_of, settings_of, written
from tokenizing import BERT, GPT2, refusal, tokenized
from tokenizing import rows_of as ids_of
from tokenizing import settings_of as data_settings

TASK: Task = "token-classification"
BIO = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
IOBES = ("O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC")))
ROWS = [
    {"tokens": ["the", "quick", "fox"], "ner_tags": ["O", "B-PER", "I-PER"]},
    {"tokens": ["acting", "", "dog"], "ner_tags": ["B-LOC", "O", "O"]},
]


# Data


@pytest.mark.parametrize("tokenizer", [BERT, GPT2], ids=["word pieces", "bytes"])
def test_the_first_token_of_a_word_has_its_tag_and_others_none(tmp_path: Path, tokenizer: Any) -> None:
    made = tokenized(tmp_path, ROWS, TASK, tokenizer)
    assert made.label_names == ("B-LOC", "B-PER", "I-PER", "O")
    texts = [" ".join(row["tokens"]) for row in ROWS]
    assert ids_of(made.train) == [tokenizer(text)["input_ids"] for text in texts]
    labels = [made.train.labels[start:stop] for start, stop in zip(made.train.offsets, made.train.offsets[1:])]  # noqa: B905
    for row, tags in zip(ROWS, labels, strict=True):
        words = [(word, tag) for word, tag in zip(row["tokens"], row["ner_tags"], strict=True) if word]
        assert [made.label_names[tag] for tag in tags if tag != IGNORE_INDEX] == [tag for _, tag in words]
    ids = ids_of(made.train)[0]
    first = [place for place, tag in enumerate(labels[0]) if tag != IGNORE_INDEX]
    ends = [*first[1:], len(ids) - (tokenizer is BERT)]
    assert [tokenizer.decode(ids[a:b]).strip() for a, b in zip(first, ends, strict=True)] == ROWS[0]["tokens"]


def test_class_labels_of_a_list_keep_their_own_order(tmp_path: Path) -> None:
    """As conll2003 has them on the Hub."""
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
            "pos_tags": datasets.List(datasets.ClassLabel(names=["DT", "NN"])),
        }
    )
    rows = {"tokens": [["the", "cat"], ["dog"]], "ner_tags": [[0, 1], [2]], "pos_tags": [[0, 1], [1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    files: dict[str, Any] = {"files": [str(tmp_path / "saved")]}
    made = tokenized(tmp_path, [], TASK, BERT, **files)
    assert made.label_names == tuple(names)
    assert [tag for tag in made.train.labels.tolist() if tag != IGNORE_INDEX] == [0, 1, 2]
    assert tokenized(tmp_path, [], TASK, BERT, label_column="pos_tags", **files).label_names == ("DT", "NN")


def test_a_long_text_is_windows_in_which_each_word_is_a_target_once(tmp_path: Path) -> None:
    words = " ".join(tiny.LINES[:2]).split()
    rows = [{"words": words, "tags": [f"B-{n % 3}" for n in range(len(words))]}]
    for stride in (0, 3):
        made = tokenized(tmp_path, rows, TASK, BERT, 12, stride=stride)
        assert len(made.train) > 2 and set(made.train.texts.tolist()) == {0}
        tags = [made.label_names[tag] for tag in made.train.labels if tag != IGNORE_INDEX]
        assert tags == rows[0]["tags"]
    cut = tokenized(tmp_path, rows, TASK, BERT, 12, long_texts="truncate")
    assert len(cut.train) == cut.counts["train_truncated"] == 1
    numbers = encode([words], data_settings(tmp_path, rows, TASK, long_texts="truncate"), BERT, 12).labels
    assert numbers is not None and numbers[numbers != IGNORE_INDEX].tolist() == list(range(len(words)))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, ".jsonl, line 2 has 1 words but 2 tags; give one for each word"),
        ({"tokens": "the cat", "ner_tags": ["O", "O"]}, "column 'tokens' holds str, not a list of words; name another"),
        ({"tokens": ["a"], "ner_tags": "O"}, "line 2 has 'O' in column 'ner_tags', but labels of token-classification"),
        ({"tokens": ["a"], "ner_tags": [1]}, "line 2 has [1] in column 'ner_tags', but labels are all strings or all"),
        ({"tokens": ["a"], "ner_tags": None}, "1 of 2 training rows have no label in column 'ner_tags' (it is null)"),
    ],
)
def test_rows_whose_tags_do_not_fit_are_refused(tmp_path: Path, row: Any, told: str) -> None:
    assert told in refusal(DataError, tmp_path, [ROWS[0], row], TASK, BERT)


def test_what_cannot_be_learned_or_read_is_refused(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "ner_tags": ["O", "O"]}]
    assert "every word of the training rows has the same tag in column 'ner_tags' ('O')" in refusal(
        DataError, tmp_path, rows, TASK, BERT
    )
    from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

    assert "token-classification needs a fast tokenizer" in refusal(
        SettingsError, tmp_path, ROWS, TASK, ByT5Tokenizer()
    )
    assert "no column tokens or words; the columns are 'input_ids', 'ner_tags'" in refusal(
        DataError,
        tmp_path,
        [{"input_ids": [5], "ner_tags": ["O"]}, {"input_ids": [6], "ner_tags": ["B-X"]}],
        TASK,
        BERT,
    )


def test_a_batch_has_tags_of_tokens_and_an_empty_one_no_target(tmp_path: Path) -> None:
    settings, rows = data_settings(tmp_path, ROWS, TASK), tokenized(tmp_path, ROWS, TASK, BERT).train
    collator = Collator.of(settings, rows, BERT)
    batch = collator(np.array([1, 0]), 0)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"][1, : rows.lengths[0]].tolist() == rows.labels[: rows.offsets[1]].tolist()
    assert collator.targets(batch["labels"]) == 5 and collator.targets(collator.empty()["labels"]) == 0


# Metrics


def quiet(function: Any, *arguments: Any, **options: Any) -> Any:
    """seqeval warns of what is not defined."""
    with warnings.catch_warnings(action="ignore"):
        return function(*arguments, **options)


@given(st.lists(st.sampled_from(IOBES), max_size=12))
def test_entities_are_those_of_seqeval(tags: list[str]) -> None:
    assert list(entities(tags)) == get_entities(tags)


def test_entities_of_other_schemes_are_read_too() -> None:
    assert list(entities(["B-A", "L-A", "U-A", "O", "U-B", "I-B"])) == [
        ("A", 0, 1),
        ("A", 2, 2),
        ("B", 4, 4),
        ("B", 5, 5),
    ]
    assert are_marked(BIO) and are_marked(("O", "U-A", "L-A", "B-A", "I-A"))
    assert not are_marked(("NN", "VB")) and not are_marked(("O",)) and not are_marked(("O", "B"))


texts = st.lists(
    st.lists(st.tuples(*[st.integers(0, len(BIO) - 1)] * 2), min_size=1, max_size=10), min_size=1, max_size=6
)


@given(texts)
def test_metrics_are_those_of_seqeval(pairs: list[list[tuple[int, int]]]) -> None:
    predicted, true = ([[pair[n] for pair in text] for text in pairs] for n in (0, 1))
    found = score(predicted, true, BIO)
    names = [[[BIO[tag] for tag in text] for text in rows] for rows in (true, predicted)]
    wanted = {
        "precision": quiet(seqeval_metrics.precision_score, *names),
        "recall": quiet(seqeval_metrics.recall_score, *names),
        "f1": quiet(seqeval_metrics.f1_score, *names),
        "f1_macro": np.nan_to_num(quiet(seqeval_metrics.f1_score, *names, average="macro")),
        "accuracy": seqeval_metrics.accuracy_score(*names),
    }
    assert found.metrics == pytest.approx(wanted)
    report = (
        quiet(seqeval_metrics.classification_report, *names, output_dict=True) if found.details["label_scores"] else {}
    )
    for row in found.details["label_scores"]:
        each = report[row["label"]]
        assert (row["precision"], row["recall"], row["f1"], row["count"]) == pytest.approx(
            (each["precision"], each["recall"], each["f1-score"], each["support"])
        )
    flat = [[tag for text in rows for tag in text] for rows in (true, predicted)]
    counts = sklearn_metrics.confusion_matrix(*flat, labels=range(len(BIO))).tolist()
    assert found.details["confusion_matrix"]["counts"] == counts


def test_tags_that_stand_for_themselves_are_counted_as_classes() -> None:
    names = ("ADJ", "NOUN", "VERB")
    found = score([[0, 1], [1, 2]], [[0, 1], [2, 2]], names).metrics
    assert found["accuracy"] == 0.75 and {"loss", *found} == set(TASKS[TASK].metrics(names).names)
    check_metric("f1_macro", TASK, names)
    check_metric("f1", TASK, BIO)
    with pytest.raises(SettingsError, match="which is not a metric of token-classification"):
        check_metric("f1", TASK, names)


def test_windows_are_one_sequence_again() -> None:
    rows: list[Any] = [(3, [1, 2], [1, 1], None), (4, [5], [6], None), (5, [7], [8], None)]
    assert joined(rows, np.asarray([0, 0, 0, 1, 2, 1])) == [(1, [1, 2, 7], [1, 1, 8], None), (2, [5], [6], None)]


WITH_EVALUATE = """
import json, sys, evaluate
from distrain_trainer.metrics.metrics import metric_path
print(json.dumps(evaluate.load(str(metric_path("seqeval"))).compute(**json.loads(sys.argv[1]))))
"""


def test_evaluate_load_gives_seqevals_numbers_without_a_network(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    tags = {
        "predictions": [["O", "B-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"], ["B-LOC"]],
        "references": [["O", "O", "B-MISC", "I-MISC"], ["B-PER", "I-PER", "O"], ["O"]],
    }
    command = [sys.executable, "-c", WITH_EVALUATE, json.dumps(tags)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = json.loads(subprocess.check_output(command, env=environment))
    names = tags["references"], tags["predictions"]
    assert found.pop("overall_f1") == pytest.approx(quiet(seqeval_metrics.f1_score, *names))
    assert found.pop("overall_precision") == pytest.approx(quiet(seqeval_metrics.precision_score, *names))
    assert found.pop("overall_recall") == pytest.approx(quiet(seqeval_metrics.recall_score, *names))
    assert found.pop("overall_accuracy") == pytest.approx(seqeval_metrics.accuracy_score(*names))
    assert found == {
        "LOC": {"precision": 0, "recall": 0, "f1": 0, "number": 0},
        "MISC": {"precision": 0, "recall": 0, "f1": 0, "number": 1},
        "PER": {"precision": 1, "recall": 1, "f1": 1, "number": 1},
    }


# A run


@pytest.fixture(scope="module")
def trained(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sentences with people and places, some of them longer than a row."""
    folder = tmp_path_factory.mktemp("tags")
    file = written(folder / "people.jsonl", 200, people)
    quickly = {"data.max_length": 16, "batch.micro_batches": 1, "schedule.epochs": 6}
    run(settings_of(bert, file, folder / "out", task=TASK, **quickly), resume=False)
    return folder


def test_entities_are_learned_and_told(trained: Path) -> None:
    info = json.loads((trained / "out" / "training_info.json").read_text())
    assert info["final"]["f1"] > 0.8 and info["best"]["metric"] == "f1"
    assert {row["label"] for row in info["label_scores"]} == {"LOC", "PER"}
    assert info["confusion_matrix"]["labels"] == sorted(BIO)
    assert "LOC" in (trained / "out" / "report.html").read_text()
    again = evaluated(trained / "out")
    assert {name: again[name] for name in info["final"]} == pytest.approx(info["final"], abs=1e-6)


def test_predict_evaluate_and_the_pipeline_agree(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "new.jsonl", 12, people, seed=5)
    made, rows = predicted(trained / "out", file, tmp_path / "said.jsonl"), rows_of(file)
    assert [row["words"] for row in made] == [row["tokens"] for row in rows]
    assert all(len(row["tags"]) == len(row["scores"]) == len(row["words"]) and None not in row["tags"] for row in made)
    names = [row["ner_tags"] for row in rows], [row["tags"] for row in made]
    found = evaluated(trained / "out", file)
    assert found["f1"] == pytest.approx(quiet(seqeval_metrics.f1_score, *names))
    assert found["accuracy"] == pytest.approx(seqeval_metrics.accuracy_score(*names))

    final = str(trained / "out" / "final")
    assert set(AutoModelForTokenClassification.from_pretrained(final).config.id2label.values()) == set(BIO)
    tag: Any = pipeline("token-classification", model=final, tokenizer=final, aggregation_strategy="first")
    tokenizer = AutoTokenizer.from_pretrained(final)
    short = [row for row in made if len(tokenizer(" ".join(row["words"]))["input_ids"]) <= 16]  # what is one row here
    assert any(row["entities"] for row in short)
    for row in short:
        theirs = tag(" ".join(row["words"]))
        wanted = [(one["entity_group"], one["word"]) for one in theirs]
        assert [(one["type"], one["text"]) for one in row["entities"]] == wanted
        assert [one["score"] for one in row["entities"]] == pytest.approx([one["score"] for one in theirs], abs=1e-4)

    line = " ".join(made[0]["words"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{line}\n\n".encode())))
    predict_folder(final, None, None, 1)
    said = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert said[0]["entities"] == made[0]["entities"] and said[1] == {
        "words": [],
        "tags": [],
        "scores": [],
        "entities": [],
    }


def test_a_word_without_a_token_has_no_tag(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text(json.dumps({"words": ["fox", "", "\u200b", "dog"]}) + "\n")
    (said,) = predicted(trained / "out", tmp_path / "new.jsonl", tmp_path / "said.jsonl")
    assert (
        [tag is None for tag in said["tags"]]
        == [score is None for score in said["scores"]]
        == [False, True, True, False]
    )


def test_transformers_alone_gives_the_tags(trained: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "one.jsonl", 1, lambda draw: {"tokens": ["the", "fox", "cat"], "ner_tags": ["O"] * 3})
    (said,) = predicted(trained / "out", file, tmp_path / "said.jsonl")
    final = trained / "out" / "final"
    model = AutoModelForTokenClassification.from_pretrained(final).eval()
    tokenizer = AutoTokenizer.from_pretrained(final)
    inputs: Any = tokenizer(["the", "fox", "cat"], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        best = model(**inputs).logits[0].argmax(-1).tolist()
    first = [inputs.word_ids().index(word) for word in range(3)]
    assert [model.config.id2label[best[place]] for place in first] == said["tags"]
