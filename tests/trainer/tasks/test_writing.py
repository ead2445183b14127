"""Sequence-to-sequence: rows of a source and its target, the losses of transformers, and texts that are written."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from rouge_score import rouge_scorer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import tiny
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.plan import cut
from distrain_trainer.data.rows import Rows
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.metrics.rouge import written_metrics
from distrain_trainer.models.loss import GREEDY, SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.tasks.writing import WRITING
from distrain_trainer.training.run import run
from labelled import evaluated, first_words, predicted, rows_of, settings_of, written
from runs import Victim, digest, finish, losses
from tokenizing import refusal, tokenized
from tokenizing import rows_of as ids_of
from tokenizing import settings_of as data_settings

TASK = "sequence-to-sequence"
T5 = tiny.ending()
ROWS: list[dict[str, Any]] = [
    {"source": tiny.LINES[0], "summary": "a cat"},
    {"source": "the cat", "summary": tiny.LINES[1]},
    {"source": "dogs", "summary": "a dog sat"},
]
SHORT: dict[str, Any] = {"max_target_length": 12}


@pytest.mark.parametrize(("longest", "prefix"), [(64, None), (12, "summarize: ")])
def test_rows_are_what_the_tokenizer_itself_makes_of_sources_and_targets(
    tmp_path: Path, longest: int, prefix: str | None
) -> None:
    made = tokenized(tmp_path, ROWS, TASK, T5, longest, text_prefix=prefix, **SHORT)
    sources = [(prefix or "") + row["source"] for row in ROWS]
    wanted: Any = T5(sources, truncation=True, max_length=longest)["input_ids"]
    targets: Any = T5(text_target=[row["summary"] for row in ROWS], truncation=True, max_length=12)["input_ids"]
    assert ids_of(made.train) == [source + target for source, target in zip(wanted, targets, strict=True)]
    assert made.train.sides.tolist() == [[len(s), len(t)] for s, t in zip(wanted, targets, strict=True)]
    assert all(target[-1] == T5.eos_token_id for target in targets[:1])
    assert made.counts["train_truncated"] == (2 if longest == 12 else 1)


def test_rows_without_a_source_or_a_target_and_long_ones_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"source": "", "summary": "x"}, {"source": "x", "summary": None}]
    made = tokenized(tmp_path, rows, TASK, T5, 64, long_texts="drop", **SHORT)
    assert (made.counts["train_empty_dropped"], made.counts["train_dropped_long"], len(made.train)) == (2, 1, 2)


def test_other_lengths_of_targets_are_not_met_in_the_cache(tmp_path: Path) -> None:
    settings = data_settings(tmp_path, ROWS, TASK, **SHORT)
    file = settings.data.files
    long, short = (tokenized(tmp_path, [], TASK, T5, 64, files=file, max_target_length=n).train for n in (60, 4))
    assert long.sides[1, 1] > short.sides[1, 1] == 4


def test_a_batch_pads_sources_and_targets_apart(tmp_path: Path) -> None:
    rows = tokenized(tmp_path, ROWS, TASK, T5, 64, **SHORT).train
    collator = Collator.of(data_settings(tmp_path, ROWS, TASK, **SHORT), rows, T5)
    batch = collator(np.asarray([2, 1]), 0)
    sources: Any = T5(["dogs", "the cat"], padding=True, return_tensors="pt")
    targets: Any = T5(["a dog sat", tiny.LINES[1]], padding=True, truncation=True, max_length=12, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], sources[name]), name
    wanted = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
    assert torch.equal(batch["labels"], wanted)
    assert collator.targets(batch["labels"]) == int(targets["attention_mask"].sum())
    assert collator.empty()["labels"].tolist() == [[-100]]


@pytest.mark.parametrize("samples", [None, 5])
def test_no_micro_batch_holds_more_than_its_tokens_on_both_sides(samples: int | None) -> None:
    draw = np.random.Generator(np.random.PCG64(3))
    sides = np.stack([draw.integers(1, 60, 400), draw.integers(1, 30, 400)], axis=1)
    chosen = draw.permutation(400)[:300]
    planned = cut(sides, chosen, 120, samples)
    assert sorted(planned.rows.tolist()) == sorted(chosen.tolist())
    for number in range(len(planned)):
        rows = sides[planned[number]]
        assert planned.costs[number] == len(rows) * rows.max(0).sum()
        assert planned.costs[number] <= 120 and len(rows) <= (samples or 400)
    packed = [planned[number] for number in range(len(planned))]
    for rows, following in pairwise(packed):  # none would have had room for the first row of the next one
        both = sides[np.concatenate([rows, following[:1]])]
        assert len(both) * both.max(0).sum() > 120 or len(rows) == samples


@pytest.mark.parametrize("build", [tiny.tiny_t5, tiny.tiny_bart])
def test_the_loss_is_that_of_transformers(tmp_path: Path, build: Any) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(build(tmp_path / "model")).eval()
    rows = tokenized(tmp_path, ROWS, TASK, T5, 64, **SHORT).train
    batch = Collator.of(data_settings(tmp_path, ROWS, TASK, **SHORT), rows, T5)(np.arange(3), 0)
    with torch.no_grad():
        loss, predictions = SummedLoss(model, task=WRITING).eval()(**batch)
        theirs = model(**batch)
    targets = batch["labels"] != -100
    assert float(loss) == pytest.approx(float(theirs.loss) * int(targets.sum()), rel=1e-6)
    assert torch.equal(predictions, theirs.logits.argmax(-1))


def test_rouge_has_the_numbers_of_rouge_score() -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    words = ["the", "Cat,", "sat", "on", "3", "mats-and", "don't", "MIND", "été", "naïve", "it"]
    texts = [" ".join(draw.choice(words, draw.integers(0, 12))) for _ in range(120)]
    predictions, references = texts[:60], [*texts[60:118], texts[1], f" {texts[2]}\n"]
    predictions[-2:] = texts[1], texts[2]
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names)
    pairs = [scorer.score(true, said) for true, said in zip(references, predictions, strict=True)]
    wanted = {name: float(np.mean([pair[name].fmeasure for pair in pairs])) for name in names}
    found = written_metrics(predictions, references)
    equal = [said.strip() == true.strip() for said, true in zip(predictions, references, strict=True)]
    assert found.pop("exact_match") == np.mean(equal)
    assert found == pytest.approx(wanted, abs=1e-12) and 0 < wanted["rouge2"] < wanted["rougeL"]


# What is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": {"packing": True}}, r"batch\.packing is for causal-lm and chat but task is sequence-to-sequence"),
        ({"model": {"chunked_loss": True}}, r"model\.chunked_loss is for causal-lm and chat"),
        ({"data": {"long_texts": "split"}}, r"would part a source from its target"),
        ({"data": {"stride": 4, "max_length": 32}}, r"would part a source from its target"),
        ({"data": {"text_pair_column": "b"}}, r"data\.text_pair_column is for tasks that give a text a label"),
        ({"data": {"mask_whole_words": True}}, r"data\.mask_whole_words is for masked-lm"),
        ({"data": {"text_column": "a", "target_column": "a"}}, r"data\.text_column and data\.target_column are both a"),
        ({"data": {"max_length": 200}, "batch": {"tokens": 256}}, r"data\.max_target_length = 128 are together more"),
        ({"batch": {"tokens": 130}}, r"data\.max_target_length = 128 are together more"),
        ({"evaluation": {"generations": 0, "metric": "rougeL"}}, r"evaluation\.generations is 0"),
        ({"task": "causal-lm", "data": {"target_column": "b"}}, r"data\.target_column and data\.text_prefix are for"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings.model_validate({"task": TASK} | changes)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    sentence = refusal(DataError, tmp_path, [{"source": "a", "english": "b"}], TASK, T5)
    assert (
        "the data has no column target or summary" in sentence and "set data.target_column to one of them" in sentence
    )
    rows = [{"source": "a", "summary": 7}]
    assert "column 'summary' holds int, not text; name another data.target_column" in refusal(
        DataError, tmp_path, rows, TASK, T5
    )


def test_a_model_of_the_other_kind_is_refused(bert: Path, t5: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "words.jsonl", 20, first_words)
    with pytest.raises(SettingsError, match=r"has no encoder and decoder; choose a model such as T5 or BART"):
        run(settings_of(bert, file, tmp_path / "out", task=TASK), resume=False)
    more = {"task": "causal-lm", "data.text_column": "source"}
    with pytest.raises(SettingsError, match=r"has an encoder and a decoder; set task to sequence-to-sequence"):
        run(settings_of(t5, file, tmp_path / "out", **more), resume=False)


# A run


QUICK: dict[str, Any] = {
    "task": TASK,
    "data.max_target_length": 16,
    "batch.samples": 16,
    "optimizer.learning_rate": 1e-2,
    "schedule.epochs": 6,
}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_t5(tmp_path_factory.mktemp("t5"), dropout=0.0)


@pytest.fixture(scope="module", params=["whole", "adapter"])
def trained(request: pytest.FixtureRequest, t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns to write the first words of a text."""
    folder = tmp_path_factory.mktemp("writing")
    file = written(folder / "words.jsonl", 220, first_words)
    more = {"lora.rank": 8, "schedule.epochs": 2} if request.param == "adapter" else {}
    run(settings_of(t5, file, folder / "out", **(QUICK | more)), resume=False)
    return folder


def test_what_an_evaluation_says_of_written_texts_is_what_predict_writes(trained: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "new.jsonl", 30, first_words, seed=5)
    predict_folder(str(trained / "out"), str(file), str(tmp_path / "said.jsonl"), None)
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    rows = rows_of(file)
    assert [row["text"] for row in said] == [row["source"] for row in rows]
    found = evaluated(trained / "out", file)
    wanted = written_metrics([row["target"] for row in said], [row["summary"] for row in rows])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    (short,) = predicted(trained / "out", written(tmp_path / "one.jsonl", 1, first_words, 5), tmp_path / "short.jsonl")
    assert said[0]["target"].startswith(short["target"])


def test_the_first_words_are_learned_and_shown(trained: Path) -> None:
    info = json.loads((trained / "out" / "training_info.json").read_text())
    assert info["best"]["metric"] == "loss" and {"rouge1", "rougeL", "exact_match"} <= set(info["final"])
    assert len(info["answers"]) == 5 and info["answers"][0]["prompt"].startswith(info["answers"][0]["expected"])
    assert info["answers"][0]["expected"] in (trained / "out" / "report.html").read_text()
    again = evaluated(trained / "out")
    assert {name: again[name] for name in info["final"]} == pytest.approx(info["final"], abs=1e-6)
    if not (trained / "out" / "final" / "adapter_config.json").exists():
        assert info["final"]["rouge1"] > 0.5


def test_transformers_alone_writes_the_same(trained: Path, tmp_path: Path) -> None:
    final = trained / "out" / "final"
    file = written(tmp_path / "one.jsonl", 1, first_words, seed=8)
    (row,) = rows_of(file)
    predict_folder(str(final), str(file), str(tmp_path / "said.jsonl"), 16)
    adapter = (final / "adapter_config.json").exists()
    loader: Any = AutoPeftModelForSeq2SeqLM if adapter else AutoModelForSeq2SeqLM
    model, tokenizer = loader.from_pretrained(final).eval(), AutoTokenizer.from_pretrained(final)
    made = model.generate(**tokenizer(row["source"], return_tensors="pt"), max_new_tokens=16, do_sample=False)
    text = tokenizer.decode(made[0], skip_special_tokens=True)
    assert json.loads((tmp_path / "said.jsonl").read_text()) == {"text": row["source"], "target": text}


def test_what_a_model_prefers_for_its_old_data_is_left_out(tmp_path: Path) -> None:
    """BART's own configuration asks for four beams and forbids to repeat three tokens."""
    file, bart = written(tmp_path / "words.jsonl", 40, first_words), tiny.tiny_bart(tmp_path / "bart")
    run(settings_of(bart, file, tmp_path / "out", **(QUICK | {"schedule.max_steps": 1})), resume=False)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out" / "final").eval()
    assert model.generation_config.num_beams == 4
    model.final_logits_bias[0, T5.eos_token_id] = -1e4  # so that it goes on writing
    ids = torch.tensor([T5("the cat sat")["input_ids"]])
    greedy = [model.config.decoder_start_token_id]
    with torch.no_grad():
        for _ in range(6):
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([greedy])).logits
            greedy.append(int(logits[0, -1].argmax()))
        made = model.generate(input_ids=ids, max_new_tokens=6, **GREEDY)[0].tolist()
    assert made[:6] == greedy[:6]


@pytest.mark.matrix
def test_a_run_that_is_killed_ends_the_same(tmp_path: Path) -> None:
    t5 = tiny.tiny_t5(tmp_path / "t5")
    file = written(tmp_path / "words.jsonl", 120, first_words)

    def command(output: Path) -> list[str]:
        return [
            *("train", "--task", TASK, "--model.name", str(t5), "--data.files", str(file)),
            *("--batch.tokens", "256", "--batch.micro_batches", "2", "--optimizer.learning_rate", "1e-3"),
            *("--data.max_target_length", "16", "--evaluation.every_steps", "10", "--evaluation.generations", "4"),
            *("--schedule.max_steps", "30", "--checkpoint.every_steps", "4", "--processes", "2"),
            *("--output_dir", str(output), "--resume"),
        ]

    finish(command(tmp_path / "whole"))
    victim = Victim(command(tmp_path / "broken"), tmp_path / "broken")
    assert victim.wait_for_step(13)
    victim.kill()
    finish(command(tmp_path / "broken"))
    assert digest(tmp_path / "broken" / "final") == digest(tmp_path / "whole" / "final")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_rows_of_two_parts_say_what_they_take() -> None:
    rows = Rows(np.arange(9, dtype=np.int32), np.asarray([0, 4, 9]), firsts=np.asarray([1, 3], np.int32))
    assert rows.sizes.tolist() == [[1, 3], [3, 2]] and rows.lengths.tolist() == [4, 5]
