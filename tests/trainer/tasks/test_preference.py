"""Preferences: pairs of answers as rows, the losses and metrics of TRL, and the reference that a run keeps."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from chats import PLAIN, tokenizer_of
from distrain_trainer import predict
from distrain_trainer.data.loader import Collator
from distrain_trainer.errors import DataError
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Preference
from distrain_trainer.tasks.preference import COMPARED, PREFERENCE
from distrain_trainer.training.reference import read
from distrain_trainer.training.run import run
from labelled import answers, evaluated, judged, predicted, rows_of, settings_of, written
from runs import Victim, digest, finish, losses, metrics
from tokenizing import LLAMA, bare, refusal, tokenized
from tokenizing import settings_of as data_settings

TASK = "preference"
START, END = LLAMA.bos_token_id, LLAMA.eos_token_id
ROWS: list[dict[str, Any]] = [
    {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " is a dog"},
    {"prompt": "a quick brown", "chosen": " fox", "rejected": " lazy dog jumps over"},
    {"prompt": "good films", "chosen": " make people happy", "rejected": " make people sad and sad"},
]
CHAT = tokenizer_of(PLAIN)
ASKED = [{"role": "user", "content": "the cat?"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("on the mat", "a log"))


def answers_in(rows: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, those of them that are targets) of each text of each row."""
    found = []
    for number, sides in enumerate(rows.sides.tolist()):
        start = rows.offsets[number]
        for length in sides:
            ids, labels = (array[start : start + length].tolist() for array in (rows.input_ids, rows.labels))
            found.append((ids, [label for label in labels if label != -100]))
            start += length
    return found


def test_a_row_is_a_prompt_with_either_answer_and_only_the_answers_are_targets(tmp_path: Path) -> None:
    made = tokenized(tmp_path, ROWS, TASK, LLAMA, 64)
    wanted = []
    for row in ROWS:
        for answer in (row["chosen"], row["rejected"]):
            whole, prompt = bare(LLAMA, row["prompt"] + answer), bare(LLAMA, row["prompt"])
            assert whole[: len(prompt)] == prompt
            wanted.append(([START, *whole, END], [*whole[len(prompt) :], END]))
    assert answers_in(made.train) == wanted


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": "the cat?", "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": "the cat?", "chosen": GOOD, "rejected": BAD},
    ],
)
def test_messages_are_written_by_the_chat_template_in_each_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    made = tokenized(tmp_path, [row], TASK, CHAT, 64)
    prompt = "<s><user>the cat?</s>\n<assistant>"
    for (ids, targets), answer in zip(answers_in(made.train), ("on the mat", "a log"), strict=True):
        assert CHAT.decode(ids) == f"{prompt}{answer}</s>\n" and CHAT.decode(targets) == f"{answer}</s>"


def test_long_answers_lose_their_end_and_pairs_without_room_for_one_are_dropped(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": " ".join(["cat"] * 40), "chosen": " a", "rejected": " b"}]
    made = tokenized(tmp_path, rows, TASK, LLAMA, 10)
    assert made.train.sides.max() == 10
    assert (made.counts["train_dropped_long"], made.counts["train_rows"]) == (1, 3)
    assert made.counts["train_truncated"] >= 1
    dropped = tokenized(tmp_path, rows, TASK, LLAMA, 10, long_texts="drop")
    assert dropped.counts["train_dropped_long"] == 1 + made.counts["train_truncated"]


def test_what_is_no_pair_is_refused_with_its_place(tmp_path: Path) -> None:
    def told(row: dict[str, Any], tokenizer: Any = CHAT) -> str:
        return refusal(DataError, tmp_path, [row], TASK, tokenizer, 64)

    assert "no column rejected; the columns are 'prompt', 'chosen'" in told({"prompt": "a", "chosen": "b"})
    assert "line 1 has an empty text in column 'rejected'" in told({"prompt": "a", "chosen": "b", "rejected": ""})
    assert "has a text in column 'chosen' and no prompt; add a column prompt" in told({"chosen": "b", "rejected": "c"})
    other = [{"role": "user", "content": "the dog?"}, *BAD]
    assert "answer different conversations" in told({"chosen": ASKED + GOOD, "rejected": other})
    assert "no answer of the assistant at its end" in told({"chosen": ASKED, "rejected": ASKED + BAD})
    assert "the tokenizer has no chat template" in told({"prompt": ASKED, "chosen": GOOD, "rejected": BAD}, LLAMA)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": {"packing": True}}, r"batch\.packing is for causal-lm and chat but task is preference"),
        ({"data": {"long_texts": "split"}}, r"would part answers in task preference"),
        ({"data": {"text_column": "a"}}, r"data\.text_column and data\.clean are not for task preference"),
        ({"data": {"max_length": 200}, "batch": {"tokens": 256}}, r"twice data\.max_length = 200"),
        ({"loss": {"label_smoothing": 0.1}}, r"loss\.label_smoothing is for classes and tokens"),
        ({"task": "causal-lm", "preference": {"beta": 0.2}}, r"section preference are for task preference"),
        ({"chat": {"messages_column": "a"}}, r"section chat are for task chat"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings.model_validate({"task": TASK} | changes)


# The numbers of TRL


@pytest.fixture(scope="module")
def moved(llama: Path) -> tuple[Any, Any]:
    """A model, and its reference, from which it has moved away."""
    model = AutoModelForCausalLM.from_pretrained(llama)
    reference = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval(), reference.eval()


def ours(tmp_path: Path, model: Any, reference: Any, preference: Preference, chunks: int = 0) -> Any:
    """The batch, and of the model the mean loss and what is measured, averaged over the pairs."""
    rows = tokenized(tmp_path, ROWS, TASK, LLAMA, 64).train
    tokenizer = copy.deepcopy(LLAMA)
    tokenizer.pad_token = tokenizer.eos_token
    collator = Collator.of(data_settings(tmp_path, ROWS, TASK), rows, tokenizer)
    numbers = np.arange(3)
    batch = collator(numbers, 0) | collator.shared(numbers)
    with torch.no_grad():
        _, before = SummedLoss(reference, task=PREFERENCE, preference=preference).eval()(**batch)
        module = SummedLoss(model, task=PREFERENCE, preference=preference).eval()
        module.chunks = chunks
        if preference.method != "orpo":
            batch["reference"] = before.T.ravel()
        loss, found = module(**batch)
    return batch, float(loss) / 3, dict(zip(COMPARED, found.mean(0).tolist(), strict=True))


QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": [],
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": 64,
}


@pytest.mark.parametrize(("method", "chunks"), [("dpo", 0), ("dpo", 3), ("ipo", 0)])
def test_dpo_and_ipo_have_the_numbers_of_trl(tmp_path: Path, moved: tuple[Any, Any], method: Any, chunks: int) -> None:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    model, reference = moved
    batch, loss, found = ours(tmp_path, model, reference, Preference(method=method, beta=0.3), chunks)
    kind = ["sigmoid" if method == "dpo" else "ipo"]
    tokenizer = copy.deepcopy(LLAMA)
    tokenizer.pad_token = tokenizer.eos_token
    trainer: Any = DPOTrainer(
        copy.deepcopy(model),
        reference,
        DPOConfig(str(tmp_path / "trl"), loss_type=kind, beta=0.3, **QUIET),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    theirs = trainer.data_collator([trainer.train_dataset[number] for number in range(3)])
    assert torch.equal(theirs["attention_mask"], batch["attention_mask"])
    assert torch.equal(theirs["input_ids"] * theirs["attention_mask"], batch["input_ids"] * batch["attention_mask"])
    assert torch.equal(theirs["completion_mask"][:, 1:] == 1, batch["labels"][:, :-1] != -100)
    trainer.model.eval()
    with torch.no_grad():
        wanted = float(trainer.compute_loss(trainer.model, theirs))
    assert loss == pytest.approx(wanted, abs=1e-5)
    told = trainer._metrics["eval"]
    assert found == pytest.approx({name: told[name][0] for name in COMPARED}, abs=1e-4, rel=1e-5)


def test_orpo_has_the_numbers_of_trl(tmp_path: Path, moved: tuple[Any, Any]) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    model, reference = moved
    _, loss, found = ours(tmp_path, model, reference, Preference(method="orpo", beta=0.3))
    tokenizer = copy.deepcopy(LLAMA)
    tokenizer.pad_token = tokenizer.eos_token
    trainer: Any = ORPOTrainer(
        copy.deepcopy(model),
        ORPOConfig(str(tmp_path / "trl"), beta=0.3, **QUIET),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=tokenizer,
    )
    theirs = trainer.data_collator([trainer.train_dataset[number] for number in range(3)])
    trainer.model.eval()
    with torch.no_grad():
        wanted, told = trainer.get_batch_loss_metrics(trainer.model, theirs, "eval")
    assert loss == pytest.approx(float(wanted), abs=1e-5)
    assert found == pytest.approx({name: told[f"eval_{name}"] for name in COMPARED}, abs=1e-5)


# A run


QUICK: dict[str, Any] = {
    "task": TASK,
    "data.max_length": 64,
    "batch.samples": 8,
    "optimizer.learning_rate": 2e-3,
    "schedule.max_steps": 24,
    "evaluation.every_steps": 12,
}


@pytest.fixture(scope="module", params=["whole", "adapter"])
def trained(request: pytest.FixtureRequest, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns to prefer the first word of a text."""
    folder = tmp_path_factory.mktemp("preference")
    file = written(folder / "answers.jsonl", 160, answers)
    more = {"lora.rank": 8, "lora.dropout": 0.1} if request.param == "adapter" else {}
    run(settings_of(llama, file, folder / "out", **(QUICK | more)), resume=False)
    return folder


def test_a_run_begins_at_its_reference_and_learns_which_answer_is_better(trained: Path) -> None:
    lines = metrics(trained / "out")
    if not (trained / "out" / "final" / "adapter_config.json").exists():  # whose dropout moves it away
        assert lines[1]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    info = json.loads((trained / "out" / "training_info.json").read_text())
    assert set(info["final"]) == {"loss", *COMPARED} and info["final"]["rewards/accuracies"] > 0.8
    assert "Better answers" in (trained / "out" / "report.html").read_text()


def test_evaluate_finds_the_reference_again(trained: Path, tmp_path: Path) -> None:
    """For the run's own rows and for others: the base model, or the adapter switched off."""
    final = json.loads((trained / "out" / "training_info.json").read_text())["final"]
    again = evaluated(trained / "out")
    assert {name: again[name] for name in final} == pytest.approx(final, abs=1e-4)
    other = evaluated(trained / "out", written(tmp_path / "new.jsonl", 20, answers, seed=7))
    assert other["rows"] == 20 and other["rewards/accuracies"] > 0.7


def test_predict_answers_prompts(trained: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "new.jsonl", 3, answers, seed=7)
    said = predicted(trained / "out", file, tmp_path / "said.jsonl")
    assert [row["prompt"] for row in said] == [row["prompt"] for row in rows_of(file)]
    assert all(set(row) == {"prompt", "answer"} for row in said)
    texts = [row["prompt"] for row in said]
    assert [one.output for one in predict(trained / "out", texts, max_new_tokens=1)] == said
    again = predict(trained / "out", texts, max_new_tokens=1, preference={"prompt_column": "question"})
    assert [one.output for one in again] == said


def command(model: Path, file: Path, output: Path, method: str, *more: str) -> list[str]:
    """The arguments of a run that is to be killed."""
    return [
        *("train", "--task", TASK, "--preference.method", method, "--model.name", str(model)),
        *("--data.files", str(file), "--data.max_length", "64", "--batch.tokens", "256", "--batch.micro_batches", "2"),
        *("--optimizer.learning_rate", "1e-3", "--schedule.max_steps", "30", "--evaluation.every_steps", "10"),
        *("--checkpoint.every_steps", "4", "--output_dir", str(output), "--resume", *more),
    ]


def kill(arguments: list[str], output: Path, step: int) -> None:
    """Begins or continues a run, and kills it at a step."""
    victim = Victim(arguments, output)
    assert victim.wait_for_step(step)
    victim.kill()


@pytest.fixture(params=["dpo", "kto"])
def killed(request: pytest.FixtureRequest, llama: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a run of each method, from its folder and more of them."""
    method = request.param
    file = written(tmp_path / "rows.jsonl", 120, judged if method == "kto" else answers)
    return lambda output, *more: command(llama, file, output, method, *more)


@pytest.mark.matrix
def test_a_run_that_is_killed_keeps_its_reference_and_ends_the_same(
    killed: Callable[..., list[str]], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ("--processes", "2", "--lora.rank", "4", "--lora.dropout", "0.1")
    finish(killed(whole, *more))
    kill(killed(broken, *more), broken, 13)
    kept = (broken / "reference.safetensors").read_bytes()
    finish(killed(broken, *more))
    assert (broken / "reference.safetensors").read_bytes() == kept
    assert digest(broken / "final") == digest(whole / "final")
    assert losses(broken) == losses(whole)


@pytest.mark.matrix
def test_a_run_that_is_killed_goes_on_under_other_strategies_on_other_numbers_of_processes(
    killed: Callable[..., list[str]], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def under(kind: str, processes: int) -> list[str]:
        return killed(broken, "--strategy.kind", kind, "--processes", str(processes))

    finish(killed(whole, "--processes", "1"))
    kill(under("zero2", 2), broken, 9)
    kill(under("fsdp", 3), broken, 18)
    finish(under("single", 1))
    assert losses(broken) == pytest.approx(losses(whole), abs=1e-5)
    ours, theirs = ([line for line in metrics(run) if "eval_loss" in line] for run in (broken, whole))
    assert [line["step"] for line in ours] == [10, 20, 30]
    for line, wanted in zip(ours, theirs, strict=True):
        assert line == pytest.approx(wanted, abs=1e-5)
    worlds = [line["processes"] for line in metrics(broken) if "processes" in line]
    assert worlds == [2, 3, 1]


def test_a_reference_of_other_data_or_a_damaged_one_is_not_taken(trained: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "out" / "settings.json").read_text())
    path = trained / "out" / "reference.safetensors"
    found = read(path, record["data"]["fingerprint"])
    assert found is not None and found["train"].shape == (128, 2) and not np.isnan(found["train"]).any()
    assert read(path, "0" * 64) is None
    (tmp_path / "half").write_bytes(path.read_bytes()[:40])
    assert read(tmp_path / "half", record["data"]["fingerprint"]) is None
