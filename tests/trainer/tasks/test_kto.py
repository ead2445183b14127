"""KTO: judged answers as rows, the loss and metrics of TRL, and runs on them."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from chats import PLAIN, tokenizer_of
from distrain_trainer.data.judged import partners
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.plan import cut
from distrain_trainer.errors import DataError
from distrain_trainer.hardware.efficiency import Efficiency
from distrain_trainer.models.flops import flops_of
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.kto import balance_sentence
from distrain_trainer.tasks.preference import PREFERENCE
from distrain_trainer.training.comparing import log_probabilities
from distrain_trainer.training.evaluation import evaluate
from distrain_trainer.training.run import run
from labelled import evaluated, judged, predicted, rows_of, settings_of, written
from runs import metrics
from tokenizing import LLAMA, bare, refusal, tokenized
from tokenizing import settings_of as data_settings

TASK = "preference"
KTO: dict[str, Any] = {"task": TASK, "preference": {"method": "kto"}}
START, END = LLAMA.bos_token_id, LLAMA.eos_token_id
ROWS: list[dict[str, Any]] = [
    {"prompt": "the cat", "completion": " sat on the mat", "label": True},
    {"prompt": "a quick brown", "completion": " lazy dog jumps over", "label": False},
    {"prompt": "good films", "completion": " make people happy", "label": True},
]
MEASURED = {
    "kl",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
}


def made_of(folder: Path, rows: Any, tokenizer: Any = LLAMA, max_length: int = 64, **data: Any) -> Any:
    return tokenized(folder, rows, TASK, tokenizer, max_length, method="kto", **data)


def texts_in(rows: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, those of them that are targets) of each text of each row."""
    found = []
    for number, sides in enumerate(rows.sides.tolist()):
        start = rows.offsets[number]
        for length in sides:
            ids, labels = (array[start : start + length].tolist() for array in (rows.input_ids, rows.labels))
            found.append((ids, [label for label in labels if label != -100]))
            start += length
    return found


def test_a_row_is_a_prompt_with_its_answer_and_with_that_of_the_row_before(tmp_path: Path) -> None:
    made = made_of(tmp_path, ROWS)
    prompts, answers = ([bare(LLAMA, row[name]) for row in ROWS] for name in ("prompt", "completion"))
    wanted = []
    for row, prompt in enumerate(prompts):
        for answer in (answers[row], answers[row - 1]):
            wanted.append(([START, *prompt, *answer, END], [*answer, END]))
    assert texts_in(made.train) == wanted
    assert made.train.desirable.tolist() == [1, 0, 1]


def test_the_other_answer_is_to_another_prompt() -> None:
    a, b = (1,), (2,)
    assert partners([a, a, b, b, a]) == [3, 3, 1, 1, 3]
    assert partners([a, a, a]) == [2, 0, 1] and partners([a]) == [0] and partners([]) == []


def test_messages_are_written_by_the_chat_template(tmp_path: Path) -> None:
    chat = tokenizer_of(PLAIN)
    asked = [{"role": "user", "content": "the cat?"}]
    said = [{"role": "assistant", "content": "on the mat"}]
    rows = [
        {"completion": asked + said, "label": 1},
        {"completion": [{"role": "user", "content": "a dog?"}, *said], "label": 0},
    ]
    made = made_of(tmp_path, rows, chat)
    for (ids, targets), prompt in zip(texts_in(made.train), ("the cat?",) * 2 + ("a dog?",) * 2, strict=True):
        assert chat.decode(ids) == f"<s><user>{prompt}</s>\n<assistant>on the mat</s>\n"
        assert chat.decode(targets) == "on the mat</s>"


def test_long_answers_lose_their_end_and_those_without_room_are_dropped_with_their_label(tmp_path: Path) -> None:
    rows = [{"prompt": " ".join(["cat"] * 40), "completion": " a", "label": False}, *ROWS]
    made = made_of(tmp_path, rows, max_length=10)
    assert made.train.sides.max() == 10 and made.train.desirable.tolist() == [1, 0, 1]
    assert made.counts["train_dropped_long"] == 1 and made.counts["train_truncated"] >= 1


def test_what_is_no_judged_answer_is_refused_with_its_place(tmp_path: Path) -> None:
    def told(row: dict[str, Any]) -> str:
        return refusal(DataError, tmp_path, [row], TASK, LLAMA, 64, method="kto")

    assert "no column label; the columns are 'prompt', 'completion'" in told({"prompt": "a", "completion": "b"})
    assert "line 1 has 'maybe' in column 'label'; a label is true or false" in told(ROWS[0] | {"label": "maybe"})
    assert "line 1 has None in column 'label'" in told(ROWS[0] | {"label": None})
    assert "has an empty text in column 'completion'" in told(ROWS[0] | {"completion": ""})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"preference": {"method": "kto", "chosen_column": "a"}}, "name pairs of answers but preference.method is kto"),
        ({"preference": {"label_column": "a"}}, "name one answer of a row but preference.method is dpo"),
        ({"preference": {"desirable_weight": 2.0}}, "are for kto but preference.method is dpo"),
        (KTO | {"evaluation": {"metric": "rewards/accuracies"}}, "compares two answers, but preference.method is kto"),
        ({"evaluation": {"metric": "kl"}}, "is measured by kto, but preference.method is dpo"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings.model_validate({"task": TASK} | changes)


def test_a_rare_kind_of_answer_is_said_with_the_weight_that_mends_it() -> None:
    rows = np.array([1] * 80 + [0] * 20)
    said = balance_sentence(Preference(method="kto"), rows)
    assert said.startswith("80 of the training answers are desirable, 20 are not; ")
    assert said.endswith("set preference.undesirable_weight: 4")
    assert "set preference.desirable_weight: 4" in balance_sentence(Preference(method="kto"), 1 - rows)
    assert ";" not in balance_sentence(Preference(method="kto", undesirable_weight=3.5), rows)


@pytest.mark.parametrize("chunks", [0, 3])
def test_loss_and_metrics_are_those_of_trl(tmp_path: Path, llama: Path, chunks: int) -> None:
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    reference = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    preference = Preference(method="kto", beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    rows = made_of(tmp_path, ROWS).train
    tokenizer = copy.deepcopy(LLAMA)
    tokenizer.pad_token = tokenizer.eos_token
    collator = Collator.of(data_settings(tmp_path, ROWS, TASK, method="kto"), rows, tokenizer)
    numbers, alone = np.arange(3), ProcessRank(0, 1, 0, 1)
    planned = cut(rows.sizes, numbers, 1024, None)
    before = SummedLoss(reference, task=PREFERENCE, preference=preference).eval()
    known = log_probabilities(lambda micro: before(**micro), planned, collator, alone)
    collator = replace(collator, rows=replace(rows, reference=known))
    batch = collator(numbers, 0)
    module = SummedLoss(model, task=PREFERENCE, preference=preference).eval()
    module.chunks = chunks
    with torch.no_grad():
        loss, _ = module(**batch)
    trainer: Any = KTOTrainer(
        copy.deepcopy(model),
        reference,
        KTOConfig(
            str(tmp_path / "trl"),
            beta=0.3,
            desirable_weight=1.2,
            undesirable_weight=0.7,
            per_device_train_batch_size=3,
            max_length=64,
            use_cpu=True,
            report_to=[],
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    theirs = trainer.data_collator([trainer.train_dataset[number] for number in range(3)])
    for name, half in (("", 0), ("KL_", 1)):
        mask = theirs[f"{name}attention_mask"]
        ours = batch["input_ids"].chunk(2)[half][:, : mask.shape[1]]
        assert torch.equal(theirs[f"{name}input_ids"] * mask, ours * mask)
    trainer.model.eval()
    with torch.no_grad():
        wanted = float(trainer.compute_loss(trainer.model, theirs))
    assert float(loss) / 3 == pytest.approx(wanted, abs=1e-5)
    with torch.no_grad():
        found = evaluate(lambda micro: module(**micro), planned, collator, alone, (), preference=preference)
    told = trainer._metrics["eval"]
    assert found is not None and set(found.metrics) == MEASURED | {"loss"}
    assert told["kl"][0] > 0
    assert found.metrics == pytest.approx(
        {"loss": wanted} | {name: told[name][0] for name in MEASURED}, abs=1e-4, rel=1e-5
    )


QUICK: dict[str, Any] = {
    "task": TASK,
    "preference.method": "kto",
    "data.max_length": 64,
    "batch.samples": 8,
    "optimizer.learning_rate": 2e-3,
    "schedule.max_steps": 24,
    "evaluation.every_steps": 12,
}


@pytest.fixture(scope="module")
def trained(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns which answers are desirable: the first word of a text."""
    folder = tmp_path_factory.mktemp("kto")
    file = written(folder / "judged.jsonl", 160, judged)
    run(settings_of(llama, file, folder / "out", **QUICK), resume=False)
    return folder


def test_a_run_begins_at_its_reference_and_learns_which_answers_are_desirable(trained: Path) -> None:
    assert metrics(trained / "out")[1]["loss"] == pytest.approx(0.5, abs=1e-6)
    final = json.loads((trained / "out" / "training_info.json").read_text())["final"]
    assert set(final) == MEASURED | {"loss"}
    assert final["rewards/margins"] > 0.1 and final["loss"] < 0.49


def test_lines_say_what_the_answers_need_of_the_peak(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that is said to do 10^12 operations a second: half of the tokens go forwards and backwards."""
    monkeypatch.setattr(Efficiency, "of", lambda flops, *_: Efficiency(flops, 1e12, None, 1))
    file = written(tmp_path / "judged.jsonl", 60, judged)
    run(settings_of(llama, file, tmp_path / "out", **QUICK | {"schedule.max_steps": 3}), resume=False)
    flops = flops_of(AutoModelForCausalLM.from_pretrained(llama))
    lines = [line for line in metrics(tmp_path / "out") if "mfu" in line]
    assert flops is not None and len(lines) == 3
    for line in lines:
        needed = line["mfu"] * 1e12 * line["step_seconds"]
        wanted = flops.of(line["tokens"], line["tokens"] // 2, 2 * line["samples"])
        assert needed == pytest.approx(wanted, rel=0.1)


def test_evaluate_finds_the_reference_again_and_predict_answers(trained: Path, tmp_path: Path) -> None:
    final = json.loads((trained / "out" / "training_info.json").read_text())["final"]
    again = evaluated(trained / "out")
    assert {name: again[name] for name in final} == pytest.approx(final, abs=1e-4)
    one_by_one = evaluated(trained / "out", None, **{"batch.tokens": "128"})
    assert {name: one_by_one[name] for name in final} == pytest.approx(final, abs=1e-4)
    file = written(tmp_path / "new.jsonl", 3, judged, seed=7)
    said = predicted(trained / "out", file, tmp_path / "said.jsonl")
    assert [row["prompt"] for row in said] == [row["prompt"] for row in rows_of(file)]
