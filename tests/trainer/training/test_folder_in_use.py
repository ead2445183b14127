"""Several commands on one folder: a run is replaced only by a finished one, and never by two at once."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from distrain_trainer.storage.attempts import current_attempt
from distrain_trainer.storage.layout import previous_runs, published_checkpoints
from distrain_trainer.storage.lock import hold
from runs import RunCommand, Victim, digest, finish, losses, train

SHORT = ("--schedule.max_steps", "6", "--checkpoint.every_steps", "3")


def content(folder: Path) -> dict[str, str]:
    """Path -> hash of every file that a command must not touch."""
    own = ("attempt.json", "logs/", "errors/", "lock.json")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if not name.startswith(own)
    }


@pytest.fixture(scope="module")
def finished(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, beside which a person has put things of their own."""
    output = tmp_path_factory.mktemp("finished") / "out"
    finish(train(bert, texts, output, 1, *SHORT, "--lora.rank", "4"))
    for name in ("checkpoint-notes", "logs"):
        (output / name).mkdir(exist_ok=True)
        (output / name / "mine.txt").write_text("mine")
    return output


def test_an_overwrite_that_is_refused_costs_nothing(
    finished: Path, bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    (tmp_path / "unlabelled.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    refused = [
        (texts, ("--evaluation.metric", "acuracy"), 64, "did you mean accuracy"),
        (tmp_path / "unlabelled.jsonl", (), 65, "label"),
        (texts, ("--lora.rank", "4", "--lora.target_modules", "q_prj"), 64, "q_prj"),
    ]
    before = content(finished)
    for file, more, code, sentence in refused:
        done = run_command(*train(bert, file, finished, 1, *SHORT, *more), "--overwrite")
        assert done.returncode == code and sentence in done.stderr, done.stderr
        assert f"nothing was replaced: the run in {finished} is as it was, and --resume continues it" in done.stderr
        assert content(finished) == before
    arguments = [*train(bert, texts, finished, 1, *SHORT), "--resume"]
    program = f"import sys; from distrain_k8s.cli import run; run({arguments}); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert "is finished" in done.stderr
    assert done.stdout.strip() == "False"  # what only workers need is not loaded for that answer


def test_beside_a_process_that_holds_the_folder_others_read_and_none_writes(
    finished: Path, bert: Path, texts: Path, run_command: RunCommand
) -> None:
    longer = [*train(bert, texts, finished, 1, "--schedule.max_steps", "9", "--lora.rank", "4")]
    before = content(finished)
    with hold(finished):
        for command in (longer, [*longer, "--resume"], [*longer, "--overwrite"]):
            done = run_command(*command)
            said = [line for line in done.stderr.splitlines() if line.startswith("distrain: ")]
            assert done.returncode == 64 and len(said) == 1, done.stderr
            assert f"{finished} is in use by process {os.getpid()} on " in said[0]
        for reads in ("evaluate", "predict", "merge"):
            done = run_command(reads, finished, stdin="a cat\n")
            assert done.returncode == 0, done.stderr
    shutil.rmtree(finished / "merged")
    assert content(finished) == before


def test_a_run_is_kept_until_the_one_that_replaces_it_is_finished(finished: Path, bert: Path, texts: Path) -> None:
    before, old = content(finished), digest(finished / "final")
    longer = ("--schedule.max_steps", "80", "--checkpoint.every_steps", "4", "--seed", "7")
    victim = Victim([*train(bert, texts, finished, 1, *longer), "--overwrite"], finished)
    assert victim.wait_for(lambda: previous_runs(finished) and victim.step() >= 4)
    attempt = current_attempt(finished)
    os.kill(victim.workers()[0], signal.SIGKILL)  # the supervisor's next attempt continues the new run
    assert victim.wait_for(lambda: current_attempt(finished) > attempt and victim.step() >= 8)
    victim.process.send_signal(signal.SIGTERM)
    said = victim.process.communicate(timeout=300)[1]
    assert victim.process.returncode == 143, said
    (kept,) = previous_runs(finished)
    assert f"is kept in {kept} until this one has finished; --resume continues this one" in said
    assert digest(kept / "final") == old
    persons = {name for name in before if name.startswith("checkpoint-notes")}
    assert content(kept) == {name: value for name, value in before.items() if name not in persons}

    done = finish([*train(bert, texts, finished, 1, *longer), "--resume"])
    assert f"the run before, in {kept}, was removed" in done.stdout + done.stderr
    assert not previous_runs(finished) and digest(finished / "final") != old
    assert list(losses(finished)) == list(range(1, 81))
    assert (finished / "checkpoint-notes" / "mine.txt").exists() and (finished / "logs" / "mine.txt").exists()


def test_a_live_runs_folder_is_read_by_all_and_written_by_none(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = train(bert, texts, output, 1, "--schedule.epochs", "500", "--checkpoint.every_steps", "5")
    victim = Victim(options, output)
    assert victim.wait_for(lambda: len(published_checkpoints(output)) == 2)
    done = run_command(*options, "--overwrite")
    assert done.returncode == 64 and f"{output} is in use by process {victim.process.pid} on " in done.stderr
    read = run_command("predict", output, stdin="a cat\n")
    assert read.returncode == 0 and json.loads(read.stdout)["text"] == "a cat", read.stderr
    victim.process.send_signal(signal.SIGTERM)
    said = victim.process.communicate(timeout=300)[1]
    assert victim.process.returncode == 143, said
    steps = list(losses(output))
    assert steps == list(range(1, len(steps) + 1))
    assert not (output / "lock.json").exists()


@pytest.mark.matrix
def test_a_run_under_torchrun_holds_its_folder_too(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = train(bert, texts, output, 1, "--schedule.epochs", "500")
    at = options.index("--processes")
    workers = [*options[1:at], *options[at + 2 :]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = Victim(workers, output, command=[*torchrun, "-m", "distrain_trainer"])
    assert launched.wait_for(lambda: launched.step() >= 2)
    done = run_command(*options, "--resume")
    assert done.returncode == 64 and f"{output} is in use by process " in done.stderr
    launched.process.terminate()
    launched.process.communicate(timeout=300)
    done = run_command(*options, "--resume", "--schedule.max_steps", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.matrix
def test_the_replacement_of_a_pod_takes_over_and_the_old_one_leaves(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = train(bert, texts, output, 1, "--schedule.max_steps", "400", "--run_id", "space/run1")
    pod = {"RUN_SETTINGS_HASH": "abc"}
    old = Victim([*options, "--checkpoint.every_steps", "10"], output, pod)
    assert old.wait_for(lambda: len(published_checkpoints(output)) == 2)
    other = run_command(*options)  # the same run id, but no node of the cluster's run
    assert other.returncode == 64 and "is in use by process" in other.stderr
    new = Victim([*options, "--checkpoint.every_steps", "10"], output, pod)
    said = old.process.communicate(timeout=300)[1]
    assert old.process.returncode == 138, said
    assert f"{output} was taken over by process {new.process.pid} on " in said and "Traceback" not in said
    said = new.process.communicate(timeout=300)[1]
    assert new.process.returncode == 0, said
    assert "waiting up to" not in said and list(losses(output)) == list(range(1, 401))


COMMANDS = ("train", "resume", "overwrite", "evaluate", "predict", "merge")


@pytest.mark.matrix
@pytest.mark.long
def test_any_two_commands_at_once_lose_nothing(
    bert: Path, texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    adapter = train(bert, texts, output, 1, "--lora.rank", "4", "--checkpoint.every_steps", "3")
    finish([*adapter, "--schedule.max_steps", "4"])
    (output / "notes.txt").write_text("mine")

    for number, pair in enumerate(combinations_with_replacement(COMMANDS, 2)):
        longer = ("--schedule.max_steps", str(8 + 2 * number))
        typed = {
            "train": (*adapter, *longer),
            "resume": (*adapter, *longer, "--resume"),
            "overwrite": (*adapter, "--schedule.max_steps", "4", "--overwrite"),
            "evaluate": ("evaluate", output),
            "predict": ("predict", output),
            "merge": ("merge", output),
        }
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(run_command, *typed[name], stdin="a cat\n") for name in pair]
            done = [run.result() for run in runs]
        reads = {"evaluate", "predict", "merge"} if "overwrite" in pair else set()
        for name, ended in zip(pair, done, strict=True):
            codes = (
                (64,) if name == "train" else (0, 64, 65) if name in reads else (0, 64)
            )  # 65: no model at the moment
            said = [line for line in ended.stderr.splitlines() if line.startswith("distrain: ")]
            assert ended.returncode in codes, (pair, ended.stderr)
            assert len(said) == (ended.returncode != 0) and "Traceback" not in ended.stderr, (pair, ended.stderr)
        assert pair == ("train", "train") or any(ended.returncode == 0 for ended in done), pair
        left = {path.name for path in output.iterdir()}
        assert not {name for name in left if name.startswith(("tmp.", "previous-", "lock"))}, (pair, left)
        assert (output / "notes.txt").read_text() == "mine"
        evaluated = run_command("evaluate", output)
        assert evaluated.returncode == 0, (pair, evaluated.stderr)
        shutil.rmtree(output / "merged", ignore_errors=True)
