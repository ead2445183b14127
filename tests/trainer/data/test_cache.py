"""The cache of token rows."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny
from distrain_trainer.data.tokens import prepare
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from tokenizing import GPT2, LLAMA, TEXTS, refusal, rows_of, settings_of


def test_a_second_run_finds_the_same_rows(tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS, evaluation_fraction=0.5)
    first = prepare(settings, GPT2, 16, said.append)
    assert said == [
        f"0.jsonl, {(tmp_path / '0.jsonl').stat().st_size} bytes: reading and tokenizing",
        f"2 training texts became 2 rows, {first.counts['train_tokens']} tokens",
        f"2 evaluation texts became 2 rows, {first.counts['evaluation_tokens']} tokens",
    ]
    said.clear()
    second = prepare(settings, GPT2, 16, said.append)
    assert len(said) == 1
    assert said[0].endswith("from the cache")
    assert rows_of(second.train) == rows_of(first.train)
    assert rows_of(second.evaluation) == rows_of(first.evaluation)
    assert (second.fingerprint, second.counts, second.origin) == (first.fingerprint, first.counts, first.origin)
    (entry,) = [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]
    assert not [path for path in entry.iterdir() if path.suffix not in (".npy", ".json")]


def test_content_and_not_names_or_dates_decide_about_the_cache(tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS)
    first = prepare(settings, GPT2, 16, said.append)
    file = tmp_path / "0.jsonl"
    os.utime(file, (1, 1))
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint == first.fingerprint
    assert "from the cache" in said[0]
    file.write_bytes(file.read_bytes().replace(b"cat sat", b"dog sat"))
    os.utime(file, (1, 1))
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint != first.fingerprint
    assert "reading and tokenizing" in said[0]


@pytest.mark.parametrize("change", [{"max_length": 12}, {"clean": True}, {"tokenizer": LLAMA}, {"task": "masked-lm"}])
def test_what_changes_the_rows_is_not_met_in_the_cache(tmp_path: Path, change: Any) -> None:
    settings = settings_of(tmp_path, TEXTS)
    prepare(settings, GPT2, 16, lambda _: None)
    data = settings.data.model_copy(update={"clean": change.get("clean", False)})
    changed = settings.model_copy(update={"task": change.get("task", "causal-lm"), "data": data})
    said: list[str] = []
    prepare(changed, change.get("tokenizer", GPT2), change.get("max_length", 16), said.append)
    assert "reading and tokenizing" in said[0]


def test_a_tokenizer_is_the_same_after_it_was_used(tmp_path: Path) -> None:
    said: list[str] = []
    tokenizer = tiny.wordpiece()
    settings = settings_of(tmp_path, TEXTS, "masked-lm")
    prepare(settings, tokenizer, 16, said.append)
    tokenizer(["the cat", "a"], truncation=True, max_length=3, padding=True)
    said.clear()
    prepare(settings, tokenizer, 16, said.append)
    assert "from the cache" in said[0]


@pytest.mark.parametrize("damage", ["cut", "gone", "meta"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: Any) -> None:
    said: list[str] = []
    settings = settings_of(tmp_path, TEXTS)
    first = prepare(settings, GPT2, 16, said.append)
    (entry,) = [path for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]
    if damage == "cut":
        array = entry / "train.input_ids.npy"
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "gone":
        (entry / "train.offsets.npy").unlink()
    else:
        (entry / "meta.json").write_text("{")
    said.clear()
    assert prepare(settings, GPT2, 16, said.append).fingerprint == first.fingerprint
    assert said[0] == f"the cache entry {entry} is damaged and is being rebuilt"


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sentence = refusal(SettingsError, tmp_path, TEXTS, cache=str(tmp_path / "file" / "cache"))
    assert (
        f"the cache {tmp_path}/file/cache/tokens cannot be written (Not a directory); mount it writable, or set"
        in sentence
    )


PREPARE = """
import os, signal, sys
from transformers import PreTrainedTokenizerFast
from distrain_trainer.data import tokens
from distrain_trainer.settings.model import Settings
settings = Settings.model_validate_json(sys.argv[1])
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
if sys.argv[3] == "die":
    write = tokens.ArrayFiles.append
    def dying(files, name, values):
        write(files, name, values)
        if files.part == "evaluation" and name == "input_ids":
            os.kill(os.getpid(), signal.SIGKILL)
    tokens.ArrayFiles.append = dying
print("ready", flush=True)
sys.stdin.readline()
made = tokens.prepare(settings, tokenizer, 16, lambda sentence: print(sentence, flush=True))
print(made.fingerprint, "datasets" in sys.modules)
"""


def start(settings: Settings, folder: Path, how: str = "live") -> subprocess.Popen[str]:
    """A process that is ready to tokenize and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, settings.model_dump_json(exclude_unset=True), str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_leaves_no_half_entry_and_of_two_others_one_makes_it(tmp_path: Path) -> None:
    folder = tiny.tiny_tokenizer(tmp_path / "tokenizer")
    rows = [{"text": text} for text in tiny.LINES * 700]
    settings = settings_of(tmp_path, rows, "masked-lm", evaluation_fraction=0.5)
    tokens = tmp_path / "cache" / "tokens"
    dying, first, second = start(settings, folder, "die"), start(settings, folder), start(settings, folder)
    dying.communicate("\n")
    assert dying.returncode == -signal.SIGKILL
    assert [path.suffix for path in tokens.iterdir() if path.is_dir()] == [".making"]

    for process in (first, second):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines() for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert sorted(len(lines) for lines in said) == [2, 4]
    waited, made = sorted(said, key=len)
    assert "from the cache" in waited[0]
    assert "reading and tokenizing" in made[0]
    assert waited[-1].split()[0] == made[-1].split()[0]
    assert made[-1].split()[1] == "True"
    assert waited[-1].split()[1] == "False", "a hit does not import datasets"
    assert [path.suffix for path in tokens.iterdir() if path.is_dir()] == [""]
