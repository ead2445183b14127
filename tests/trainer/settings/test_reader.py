"""Settings: one name everywhere, a precedence, and one clear sentence for whatever is wrong."""

import argparse
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain_trainer.commands import worker_arguments
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.documents import load_yaml
from distrain_trainer.settings.model import Settings, explicit, flat, nested
from distrain_trainer.settings.other_names import ACCUMULATION, OTHER_NAMES
from distrain_trainer.settings.reader import allowed_values, read_settings, split_flags, variable
from distrain_trainer.settings.reference import choices, setting_rows, settings_help


def test_the_command_line_goes_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("batch: {tokens: 100, samples: 1, micro_batches: 1}\n")
    environment = {"DISTRAIN_BATCH__TOKENS": "200", "DISTRAIN_BATCH__SAMPLES": "2", "PATH": "/bin"}
    settings = read_settings(str(file), {"batch.tokens": "300"}, environment)
    assert settings.batch.model_dump() == {"tokens": 300, "samples": 2, "micro_batches": 1, "packing": False}
    assert settings.optimizer == Settings().optimizer


@pytest.mark.parametrize("name", sorted(flat(Settings())))
def test_every_setting_has_one_name_in_three_places(name: str, tmp_path: Path) -> None:
    value = json.loads(Settings().model_dump_json())
    for part in name.split("."):
        value = value[part]
    text = ",".join(map(str, value)) if isinstance(value, list) else "null" if value is None else str(value)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(nested({name: value})))
    assert read_settings(None, {name: text}, {}) == Settings()
    assert read_settings(None, {}, {variable(name): text}) == Settings()
    assert read_settings(str(file), {}, {}) == Settings()
    assert explicit(read_settings(None, {name: text}, {})) == {name}


def test_numbers_lists_and_truths_may_be_written_as_text() -> None:
    flags = {
        "optimizer.learning_rate": "5e-5",
        "optimizer.betas": "0.9,0.95",
        "data.files": '["a.csv", "b.csv"]',
        "deterministic": "true",
        "checkpoint.every_minutes": "null",
    }
    settings = read_settings(None, flags, {})
    assert settings.optimizer.learning_rate == 5e-5
    assert settings.optimizer.betas == (0.9, 0.95)
    assert settings.data.files == ["a.csv", "b.csv"]
    assert settings.deterministic
    assert settings.checkpoint.every_minutes is None


def test_every_setting_is_described() -> None:
    assert [name for name, _, description in setting_rows(Settings) if not description] == []


REFUSED = [
    ({"batch.tokn": "1"}, {}, "--batch.tokn is not a setting; did you mean batch.tokens?"),
    ({"learning_rate": "1"}, {}, "--learning_rate is not a setting; did you mean optimizer.learning_rate?"),
    ({"lr": "1"}, {}, "--lr is not a setting; did you mean optimizer.learning_rate?"),
    ({"output-dir": "x"}, {}, "--output-dir is not a setting; did you mean output_dir?"),
    ({"num-train-epochs": "1"}, {}, "did you mean schedule.epochs?"),
    ({"per_device_train_batch_size": "8"}, {}, "did you mean batch.samples?"),
    ({"trainer.lr": "8"}, {}, "did you mean optimizer.learning_rate?"),
    ({"nonsense": "1"}, {}, "--nonsense is not a setting; distrain train --help lists them all"),
    ({}, {"DISTRAIN_LR": "1"}, "DISTRAIN_LR is not a setting; did you mean DISTRAIN_OPTIMIZER__LEARNING_RATE?"),
    (
        {"gradient_accumulation_steps": "8"},
        {},
        "--gradient_accumulation_steps is not a setting: set batch.micro_batches to this number times the number of "
        "processes, and accumulation follows",
    ),
    (
        {},
        {"DISTRAIN_BACH__TOKENS": "1"},
        "DISTRAIN_BACH__TOKENS is not a setting; did you mean DISTRAIN_BATCH__TOKENS?",
    ),
    ({"batch": "16"}, {}, "--batch is a group of settings, not one; set batch.tokens"),
    ({"batch.tokens": "many"}, {}, "--batch.tokens is 'many', but it should be a valid integer"),
    ({}, {"DISTRAIN_SEED": "-1"}, "the environment variable DISTRAIN_SEED is '-1'"),
    ({"precision": "fp8"}, {}, "--precision is 'fp8', but it should be 'fp32', 'bf16' or 'fp16'"),
    ({"optimizer.betas": "0.9"}, {}, "--optimizer.betas is '0.9', but it should be 2 values, such as 0.9,0.999 ("),
    ({"optimizer.betas": "0.9,0.9,0.9"}, {}, "--optimizer.betas is '0.9,0.9,0.9', but it should be 2 values"),
    ({"optimizer.betas": "0.9,1.5"}, {}, "--optimizer.betas is '1.5', but it should be less than 1"),
    ({"quantization.bits": "3"}, {}, "--quantization.bits is 3, but it should be 4 or 8"),
    (
        {"task": "[]"},
        {},
        "--task is [], but it should be 'sequence-classification', 'multi-label-classification', 'regression', ",
    ),
    ({"data.name": "x", "data.files": "y"}, {}, "data.name and data.files are both set"),
    ({"data.text_column": "x", "data.label_column": "x"}, {}, "data.text_column and data.label_column are both x"),
    ({"data.max_length": "512", "batch.tokens": "256"}, {}, "raise batch.tokens to at least 512"),
    ({"data.stride": "100", "data.max_length": "128"}, {}, "lower data.stride"),
    ({"data.long_texts": "split"}, {}, "choose truncate or drop"),
    ({"data.mask_whole_words": "true"}, {}, "is for masked-lm"),
    ({"schedule.warmup_steps": "5", "schedule.warmup_fraction": "0.1"}, {}, "keep one of them"),
    ({"data.evaluation_files": "a.csv"}, {}, "needs data.files"),
    ({"optimizer.momentum": "0.9"}, {}, "optimizer.momentum is for sgd"),
]


@pytest.mark.parametrize(("flags", "environment", "sentence"), REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    flags: dict[str, str], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(None, flags, environment)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("batch: {tokn: 1}", "batch.tokn in {file} is not a setting; did you mean batch.tokens?"),
        ("batch: [1", "{file} is not valid YAML at line"),
        ("seed: 1\nbatch: {tokens: 8}\nseed: 2", "{file} is not valid YAML at line 3: seed stands twice; keep one of"),
        ("batch:\n  tokens: 8\n  tokens: 9", "line 3: tokens stands twice"),
        ('{"seed": 1, "seed": 1}', "line 1: seed stands twice"),
        ("seed: \0", "{file} is not valid YAML: not a text file"),
        ("just words", "{file} holds no settings"),
        ("seed: x", "seed in {file} is 'x', but it should be a valid integer"),
    ],
)
def test_a_wrong_file_is_named(content: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        read_settings(str(file), {}, {})
    assert sentence.format(file=file) in str(refused.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_settings("nowhere.yaml", {}, {})


def test_flags_are_told_from_the_commands_own_options() -> None:
    arguments = ["run.yaml", "--batch.tokens", "8", "--seed=3", "--processes", "2", "--deterministic", "--resume"]
    flags, rest = split_flags(arguments, {"processes": True, "resume": False})
    assert flags == {"batch.tokens": "8", "seed": "3", "deterministic": "true"}
    assert rest == ["run.yaml", "--processes", "2", "--resume"]
    flags, rest = split_flags(["--data.files", "a.csv", "run.yaml", "--seed", "1", "--seed", "2"], {})
    assert (flags, rest) == ({"data.files": "a.csv", "seed": "2"}, ["run.yaml"])


def test_files_to_train_on_may_be_followed_by_files_to_evaluate_on() -> None:
    expected = {"data.files": "a.csv", "data.evaluation_files": "b.csv"}
    for arguments in (
        ["--data.files", "a.csv", "--data.evaluation_files", "b.csv"],
        ["--data.files=a.csv", "--data.evaluation_files=b.csv"],
        ["--data.files", "a.csv", "--data.evaluation_files=b.csv"],
    ):
        assert split_flags(arguments, {}) == (expected, [])


@given(
    st.dictionaries(
        st.sampled_from(sorted(flat(Settings()))), st.sampled_from(["a.csv", "d/b.csv", "true", "--x", ""])
    ),
    st.sampled_from([None, "run.yaml", "c.csv"]),
)
def test_a_worker_reads_the_settings_that_its_supervisor_has_read(flags: dict[str, str], file: str | None) -> None:
    told = worker_arguments(argparse.Namespace(file=file), flags)
    assert split_flags(told, {}) == (flags, [file] if file else [])


def test_a_switch_takes_no_word_that_is_not_its_value() -> None:
    flags, rest = split_flags(["--deterministic", "run.yaml", "--batch.packing", "false", "--model.compile"], {})
    assert flags == {"deterministic": "true", "batch.packing": "false", "model.compile": "true"}
    assert rest == ["run.yaml"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--output_dir",), "--output_dir needs a value, such as --output_dir out"),
        (("--output_dir", "--seed", "3"), "--output_dir needs a value, such as --output_dir out"),
        (("--batch.tokens", "--resume"), "--batch.tokens needs a value, such as --batch.tokens 4096"),
        (("--precision",), "--precision needs a value: fp32, bf16 or fp16"),
        (("--optimizer.betas",), "--optimizer.betas needs a value, such as --optimizer.betas 0.9,0.999"),
        (("--data.files",), "--data.files needs a value"),
        (
            ("--data.files", "d/a.csv", "d/b.csv", "--resume"),
            "--data.files takes d/a.csv and not d/b.csv, which follows it; put quotes around a pattern, such as "
            "--data.files 'd/*.csv', or commas between names",
        ),
        (
            ("--data.files", "a.csv", "--seed", "3", "--data.files=b.csv"),
            "--data.files stands twice; give both at once: --data.files a.csv,b.csv",
        ),
    ],
)
def test_a_setting_without_its_value_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        split_flags(arguments, {"resume": False})
    assert str(refused.value) == sentence


def test_a_block_that_is_merged_into_another_may_be_changed_there() -> None:
    assert load_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a, x: 4}") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 4, "y": 2},
    }


def test_names_of_other_tools_lead_to_settings() -> None:
    names = set(flat(Settings()))
    assert set(OTHER_NAMES.values()) <= names
    assert not set(OTHER_NAMES) & (names | set(ACCUMULATION))
    assert all(name == name.lower() and not set(name) & set(".- ") for name in (*OTHER_NAMES, *ACCUMULATION))


def test_the_reference_shows_what_a_setting_may_be() -> None:
    shown = " ".join(settings_help().split())
    for name in flat(Settings()):
        for value in allowed_values(name):
            assert re.search(rf"--{name} \[[^\]]*\].*? One of [^.]*\b{value}\b", shown), (name, value)
    assert allowed_values("quantization.bits") == ("4", "8") and allowed_values("batch.tokens") == ()
    assert choices("precision", "`") == " One of `fp32`, `bf16`, `fp16`."


def test_in_a_container_a_folder_is_said_as_it_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(None, {}, {}).output_dir == "out"
    assert read_settings(None, {"output_dir": "~/runs"}, {}).output_dir == str(Path.home() / "runs")
    monkeypatch.chdir("/")
    assert read_settings(None, {}, {}).output_dir == "/out"
    assert read_settings(None, {"output_dir": "/data/a"}, {}).output_dir == "/data/a"


def test_flat_and_nested_are_inverse() -> None:
    assert Settings.model_validate(nested(flat(Settings()))) == Settings()
