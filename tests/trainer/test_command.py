"""The command as people type it: what it leaves, what it answers, and how it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from distrain_trainer.storage.layout import published_checkpoints
from distrain_trainer.storage.metrics_log import TRAIN_LINE
from runs import RunCommand, losses, metrics, write_texts

QUICK = (
    "--batch.tokens",
    512,
    "--batch.samples",
    "null",
    "--optimizer.learning_rate",
    "3e-3",
    "--data.evaluation_fraction",
    "0.15",
)


def on(model: Path, texts: Path, *more: object) -> tuple[object, ...]:
    return ("--model.name", model, "--data.files", texts, *QUICK, *more)


@pytest.fixture(scope="module")
def trained(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory, run_command: RunCommand) -> Path:
    """A run with a bit of everything."""
    output = tmp_path_factory.mktemp("trained") / "out"
    more = ("--schedule.epochs", 4, "--checkpoint.every_steps", 20, "--output_dir", output)
    done = run_command("train", *on(bert, texts, *more))
    assert done.returncode == 0, done.stderr
    return output


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"settings.json", "metrics.jsonl", "training_info.json", "report.html", "checkpoint-best", "final"}
    info = json.loads((trained / "training_info.json").read_text())
    assert info["status"] == "finished" and info["step"] == info["steps"] == max(losses(trained))
    assert info["final"]["accuracy"] > 0.9
    assert info["best"]["metric"] == "accuracy"
    assert info["confusion_matrix"]["labels"] == ["animals", "films", "numbers"]
    assert sum(map(sum, info["confusion_matrix"]["counts"])) == 90
    assert "<svg" in (trained / "report.html").read_text()


def test_train_lines_hold_all_that_is_promised(trained: Path) -> None:
    line = next(line for line in metrics(trained) if "loss" in line)
    assert set(line) == set(TRAIN_LINE)
    events = [line["event"] for line in metrics(trained) if "event" in line]
    assert events[0] == "start" and events[-1] == "end" and "checkpoint" in events


@pytest.mark.parametrize("folder", ["final", "checkpoint-best"])
def test_the_model_loads_with_transformers_alone(trained: Path, folder: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained / folder, use_safetensors=True)
    assert model.config.id2label == {0: "animals", 1: "films", 2: "numbers"}
    assert (trained / folder / "tokenizer.json").exists()


def test_evaluate_answers_with_the_runs_own_numbers(trained: Path, run_command: RunCommand) -> None:
    done = run_command("evaluate", trained)
    assert done.returncode == 0, done.stderr
    final = json.loads((trained / "training_info.json").read_text())["final"]
    assert {name: json.loads(done.stdout)[name] for name in final} == pytest.approx(final, abs=1e-6)


def test_evaluate_takes_a_file_and_knows_labels_by_name(trained: Path, run_command: RunCommand, tmp_path: Path) -> None:
    rows = [{"text": "story story a bright ending", "label": "films"}, {"text": "7 7 words", "label": "numbers"}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_command("evaluate", trained / "checkpoint-best", tmp_path / "new.jsonl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2 and json.loads(done.stdout)["accuracy"] == 1.0


def test_predict_answers_lines_in_order(trained: Path, run_command: RunCommand) -> None:
    done = run_command("predict", trained, stdin="7 7 7\nstory story and acting\ncat cat\n")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in found] == ["numbers", "films", "animals"]
    assert found[0]["text"] == "7 7 7" and sum(found[0]["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_of_a_file_that_is_named_every_row_is_evaluated(trained: Path, texts: Path, run_command: RunCommand) -> None:
    for named in ((texts,), ("--data.files", texts)):
        done = run_command("evaluate", trained, *named)
        assert done.returncode == 0 and json.loads(done.stdout)["rows"] == 600, done.stderr
        assert "evaluating on 600 of 600 rows: texts.jsonl" in done.stderr


def test_predict_takes_another_column_and_keeps_the_rest_of_a_row(
    trained: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / "new.csv"
    file.write_text("body,id\n7 7 words,x1\nstory story and acting,x2\n")
    done = run_command("predict", trained, file)
    assert done.returncode == 65 and "the columns are 'body', 'id': set data.text_column to one of them" in done.stderr
    done = run_command("predict", trained, file, "--data.text_column", "body", "--keep-columns")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in found] == ["numbers", "films"]
    assert [row["row"] for row in found] == [{"body": row["text"], "id": row["row"]["id"]} for row in found]


def test_predict_loses_no_file(trained: Path, run_command: RunCommand, tmp_path: Path) -> None:
    file, output = tmp_path / "new.csv", tmp_path / "found.jsonl"
    file.write_text("text\na cat\n")
    output.write_text("found before\n")
    done = run_command("predict", trained, file, "--output", tmp_path)
    assert done.returncode == 64 and f"--output {tmp_path} cannot be written: Is a directory" in done.stderr
    done = run_command("predict", trained, file, "--output", tmp_path / ".." / tmp_path.name / "new.csv")
    assert done.returncode == 64 and "new.csv is the file that is read; give another file" in done.stderr
    done = run_command("predict", trained, file, "--data.text_column", "body", "--output", output)
    assert done.returncode == 65 and output.read_text() == "found before\n"
    done = run_command("predict", trained, file, "--output", output)
    assert done.returncode == 0 and json.loads(output.read_text())["text"] == "a cat" and not done.stdout
    assert file.read_text() == "text\na cat\n"


def test_bytes_on_stdin_that_are_no_utf8_are_one_sentence(trained: Path, run_command: RunCommand) -> None:
    done = run_command("predict", trained, stdin="a cat\nna\udcefve caf\udce9\n")
    assert done.returncode == 65 and "Traceback" not in done.stderr
    assert (
        "distrain: stdin, line 2: byte 3 is not UTF-8, as Windows-1252 or latin-1 it reads 'naïve café'" in done.stderr
    )


def test_which_model_a_command_takes_is_said_and_can_be_chosen(trained: Path, run_command: RunCommand) -> None:
    (step,) = (path.name.removeprefix("checkpoint-") for path in published_checkpoints(trained)[-1:])
    models: dict[str, tuple[str, ...]] = {
        "final": (),
        "checkpoint-best": ("--checkpoint", "best"),
        f"checkpoint-{step}": ("--checkpoint", step),
    }
    for folder, chosen in models.items():
        done = run_command("predict", trained, *chosen, stdin="a cat\n")
        assert done.returncode == 0, done.stderr
        said = done.stderr.splitlines()
        assert len(said) == 1 and said[0].startswith(f"model: {trained / folder} (--checkpoint takes another: "), said
    done = run_command("predict", trained, "--checkpoint", 99, stdin="a cat\n")
    assert done.returncode == 65 and "has no 99 model; --checkpoint takes final, best, " in done.stderr


def test_a_finished_run_stays_finished_and_goes_on_when_it_is_given_more(
    trained: Path, bert: Path, texts: Path, run_command: RunCommand
) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    again = run_command("train", "--output_dir", trained, "--resume")
    assert again.returncode == 0 and "is finished" in again.stderr
    assert (trained / "metrics.jsonl").read_bytes() == before
    steps = max(losses(trained))
    more = run_command("train", "--output_dir", trained, "--schedule.epochs", 5, "--resume")
    assert more.returncode == 0, more.stderr
    assert max(losses(trained)) > steps


def test_torchrun_can_start_the_workers(bert: Path, texts: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "distrain_trainer", "train")
    more = ("--schedule.max_steps", 6, "--output_dir", tmp_path / "out")
    command = [sys.executable, *map(str, (*launcher, *on(bert, texts, *more)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "out")) == 6
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["world_size"] == 2


def test_a_causal_model_without_a_pad_token_learns_and_continues_texts(
    gpt2: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    more = ("--task", "causal-lm", "--schedule.epochs", 2, "--processes", 2, "--output_dir", output)
    done = run_command("train", *on(gpt2, texts, *more))
    assert done.returncode == 0, done.stderr
    found = list(losses(output).values())
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
    model = AutoModelForCausalLM.from_pretrained(output / "final", use_safetensors=True)
    assert model.config.pad_token_id is not None
    answer = run_command("predict", output, "--max-new-tokens", 4, stdin="the cat\n")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["text"] == "the cat"


def test_a_masked_model_learns_whole_words_and_fills_masks(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    more = ("--task", "masked-lm", "--data.mask_whole_words", "--schedule.epochs", 2, "--output_dir", output)
    done = run_command("train", *on(bert, texts, *more))
    assert done.returncode == 0, done.stderr
    found = list(losses(output).values())
    assert sum(found[-5:]) < sum(found[:5])
    evaluation = next(line for line in metrics(output) if "eval_loss" in line)
    assert evaluation["eval_perplexity"] > 1
    AutoModelForMaskedLM.from_pretrained(output / "final", use_safetensors=True)
    answer = run_command("predict", output, stdin="the [MASK] sat on the mat\n")
    assert len(json.loads(answer.stdout)["masks"]) == 1


def test_bf16_keeps_weights_in_fp32(bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path) -> None:
    more = ("--precision", "bf16", "--schedule.max_steps", 5, "--output_dir", tmp_path / "out")
    assert run_command("train", *on(bert, texts, *more)).returncode == 0
    weights = load_file(tmp_path / "out" / "final" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def test_compiled_checkpointed_and_cosine_also_ends(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    more = ("--model.gradient_checkpointing", "--schedule.kind", "cosine", "--schedule.warmup_fraction", "0.2")
    done = run_command("train", *on(bert, texts, *more, "--schedule.max_steps", 10, "--output_dir", tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    rates = [line["learning_rate"] for line in metrics(tmp_path / "out") if "loss" in line]
    assert rates[1] == max(rates) and rates[-1] < rates[2]


def test_early_stopping_ends_a_run_that_no_longer_improves(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    more = ("--evaluation.every_steps", 2, "--evaluation.patience", 2, "--evaluation.samples", 20)
    flat = ("--optimizer.learning_rate", "1e-9", "--output_dir", tmp_path / "out")
    done = run_command("train", *on(bert, texts, *more, *flat))
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\nstep 6: stopping early: no better accuracy than \d\.\d{4} at step 2 in 2 evaluations", done.stderr
    )
    assert re.search(r"\neval at step 2: loss .*; new best accuracy\neval at step 4: [^;]*\n", done.stderr)
    assert max(losses(tmp_path / "out")) == 6


def test_max_hours_writes_a_checkpoint_and_leaves_with_71(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    more = ("--max_hours", "1e-5", "--schedule.epochs", 100, "--output_dir", tmp_path / "out")
    done = run_command("train", *on(bert, texts, *more))
    assert done.returncode == 71, done.stderr
    assert "max_hours" in done.stderr and published_checkpoints(tmp_path / "out")


def test_gradients_that_are_not_finite_end_the_run_with_70(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    more = ("--optimizer.name", "sgd", "--optimizer.learning_rate", "9", "--optimizer.max_grad_norm", 0)
    limits = ("--optimizer.nonfinite_limit", 2, "--schedule.epochs", 100, "--output_dir", tmp_path / "out")
    done = run_command("train", *on(bert, texts, "--task", "masked-lm", *more, *limits))
    assert done.returncode == 70, done.stderr
    assert "not finite in 3 steps in a row" in done.stderr and "Traceback" not in done.stderr


REFUSED = [
    (("--batch.tokn", 8), 64, "--batch.tokn is not a setting; did you mean batch.tokens?"),
    (("--strategy.kind", "single", "--processes", 2), 64, "strategy.kind is single"),
    (("--precision", "fp16", "--processes", 2), 64, "precision is fp16 but there is no GPU here"),
    (("--evaluation.metric", "acuracy"), 64, "did you mean accuracy?"),
    (("--data.text_column", "body"), 65, "'body' is not a column of the data; the columns are 'text', 'label'"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), REFUSED)
def test_a_mistake_is_one_sentence_and_a_code(
    bert: Path,
    texts: Path,
    run_command: RunCommand,
    tmp_path: Path,
    arguments: tuple[object, ...],
    code: int,
    sentence: str,
) -> None:
    done = run_command("train", *on(bert, texts, "--output_dir", tmp_path / "out"), *arguments)
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("distrain: ")]
    assert len(said) == 1 and sentence in said[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "settings.json").exists()


def test_mistakes_at_the_start_use_up_no_restarts(
    bert: Path, few_texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    short = ("--schedule.max_steps", 1, "--output_dir", tmp_path / "out")
    for _ in range(4):
        done = run_command("train", *on(tmp_path / "nowhere", few_texts, *short))
        assert done.returncode == 64 and "nowhere is not a folder here" in done.stderr
    done = run_command("train", *on(bert, few_texts, *short))
    assert done.returncode == 0, done.stderr


def test_a_corrupt_row_is_named_by_its_line(bert: Path, run_command: RunCommand, tmp_path: Path) -> None:
    file = write_texts(tmp_path / "texts.jsonl", 50)
    lines = file.read_text().splitlines()
    lines[30] = lines[30][:-5]
    file.write_text("\n".join(lines) + "\n")
    done = run_command("train", *on(bert, file, "--output_dir", tmp_path / "out"))
    assert done.returncode == 65
    assert "texts.jsonl, line 31:" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def begun(bert: Path, tmp_path_factory: pytest.TempPathFactory, run_command: RunCommand) -> tuple[Path, Path]:
    """A run of ten steps with checkpoints 5 and 10, and its data file."""
    folder = tmp_path_factory.mktemp("begun")
    file = write_texts(folder / "texts.jsonl", 300)
    more = ("--schedule.max_steps", 10, "--checkpoint.every_steps", 5, "--data.evaluation_fraction", 0)
    done = run_command("train", *on(bert, file, *more, "--output_dir", folder / "out"))
    assert done.returncode == 0, done.stderr
    return folder / "out", file


def test_background_workers_change_no_batch(
    begun: tuple[Path, Path], bert: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    more = ("--schedule.max_steps", 10, "--data.evaluation_fraction", 0, "--data.workers", 2, "--output_dir", tmp_path)
    done = run_command("train", *on(bert, begun[1], *more))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == losses(begun[0])


def test_another_runs_folder_is_not_touched(begun: tuple[Path, Path], run_command: RunCommand) -> None:
    done = run_command("train", "--output_dir", begun[0])
    assert done.returncode == 64
    assert "finished at step 10 of 10" in done.stderr and "--resume" in done.stderr and "--overwrite" in done.stderr


def test_a_setting_that_defines_the_result_may_not_change(begun: tuple[Path, Path], run_command: RunCommand) -> None:
    done = run_command("train", "--output_dir", begun[0], "--resume", "--optimizer.learning_rate", 1)
    assert done.returncode == 64
    assert "optimizer.learning_rate is 1.0 but the run in" in done.stderr and "0.003" in done.stderr


def test_a_changed_data_file_is_refused_and_its_return_accepted(
    begun: tuple[Path, Path], run_command: RunCommand
) -> None:
    output, file = begun
    content = file.read_bytes()
    file.write_bytes(content.replace(b"cat", b"dog", 1))
    done = run_command("train", "--output_dir", output, "--resume", "--schedule.max_steps", 12)
    assert done.returncode == 65, done.stderr
    assert "the data are not those that the run" in done.stderr
    file.write_bytes(content)


def damage(path: Path) -> None:
    """Changes one bit of a checkpoint's weights."""
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # best and final are links to the same bytes
    weights.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_only_total_damage_ends_the_run(
    begun: tuple[Path, Path], run_command: RunCommand
) -> None:
    output, _ = begun
    damage(output / "checkpoint-10")
    done = run_command("train", "--output_dir", output, "--resume", "--schedule.max_steps", 11)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-10 is damaged" in done.stderr and "resuming from checkpoint-5" in done.stderr
    assert list(losses(output)) == list(range(1, 12))

    whole = published_checkpoints(output)
    for path in whole:
        damage(path)
    done = run_command("train", "--output_dir", output, "--resume", "--schedule.max_steps", 12)
    assert done.returncode == 66, done.stderr
    assert "nothing was deleted" in done.stderr and published_checkpoints(output) == whole


def test_validate_prints_every_setting_and_schema_describes_them(run_command: RunCommand) -> None:
    done = run_command("validate", "--batch.tokens", "8192")
    assert done.returncode == 0 and "tokens: 8192" in done.stdout and "valid" in done.stderr
    schema = json.loads(run_command("schema").stdout)
    assert schema["additionalProperties"] is False and "description" in schema["$defs"]["Batch"]["properties"]["tokens"]


def test_help_lists_every_setting(run_command: RunCommand) -> None:
    done = run_command("train", "--help")
    assert done.returncode == 0 and "--batch.micro_batches" in done.stdout


def test_preprocess_fills_the_cache_that_train_reads(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    cache = ("--data.cache", tmp_path / "cache")
    done = run_command("preprocess", *on(bert, texts, *cache))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train_rows"] == 510
    made = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy"))
    more = ("--schedule.max_steps", 2, "--output_dir", tmp_path / "out")
    assert run_command("train", *on(bert, texts, *cache, *more)).returncode == 0
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")) == made
