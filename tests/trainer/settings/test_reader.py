"""Settings: one name everywhere, a precedence, and one clear sentence for whatever is wrong."""

import json
from pathlib import Path

import pytest

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings, explicit, flat, nested
from distrain_trainer.settings.reader import read_settings, split_flags, variable
from distrain_trainer.settings.reference import setting_rows


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
    (
        {},
        {"DISTRAIN_BACH__TOKENS": "1"},
        "DISTRAIN_BACH__TOKENS is not a setting; did you mean DISTRAIN_BATCH__TOKENS?",
    ),
    ({"batch": "16"}, {}, "--batch is a group of settings, not one; set batch.tokens"),
    ({"batch.tokens": "many"}, {}, "--batch.tokens is 'many', but it should be a valid integer"),
    ({}, {"DISTRAIN_SEED": "-1"}, "the environment variable DISTRAIN_SEED is '-1'"),
    ({"precision": "fp8"}, {}, "--precision is 'fp8', but it should be 'fp32', 'bf16' or 'fp16'"),
    ({"optimizer.betas": "0.9"}, {}, "--optimizer.betas"),
    ({"optimizer.betas": "0.9,1.5"}, {}, "--optimizer.betas"),
    ({"data.name": "x", "data.files": "y"}, {}, "data.name and data.files are both set"),
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


def test_a_switch_takes_no_word_that_is_not_its_value() -> None:
    flags, rest = split_flags(["--deterministic", "run.yaml", "--batch.packing", "false", "--model.compile"], {})
    assert flags == {"deterministic": "true", "batch.packing": "false", "model.compile": "true"}
    assert rest == ["run.yaml"]


def test_flat_and_nested_are_inverse() -> None:
    assert Settings.model_validate(nested(flat(Settings()))) == Settings()
