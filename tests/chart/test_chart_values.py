"""Values: each is described, settings arrive as they were written, and the rendering is the same twice."""

import gzip
import json
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from distrain_trainer.settings.reader import read_settings
from rendering import CHART, ROOT, Document, Values, helm, needs_helm, rendered, variables

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
TESTS = Path(__file__).parent
EVERY_VALUE = yaml.safe_load((TESTS / "every-value.yaml").read_text())

FORMER = {"checkpoint", "proxy.none"}
"""Names that values had before: the schema lets them through, so that a template can say what they are called now."""


def described(schema: Document, prefix: str = "") -> dict[str, Document]:
    """Dotted name -> schema of every value that has a name of its own."""
    found: dict[str, Document] = {}
    for name, value in schema.get("properties", {}).items():
        found[prefix + name] = value
        found |= described(value, f"{prefix}{name}.")
        found |= described(value.get("items", {}), f"{prefix}{name}[].")
        if isinstance(value.get("additionalProperties"), dict):
            found |= described(value["additionalProperties"], f"{prefix}{name}.*.")
    return found


def names(values: Values, prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        found.add(prefix + name)
        open_map = f"{prefix}{name}" in described(SCHEMA) and "properties" not in described(SCHEMA)[f"{prefix}{name}"]
        if isinstance(value, dict) and not open_map:
            found |= names(value, f"{prefix}{name}.")
    return found


def test_every_value_is_described() -> None:
    missing = [name for name, value in described(SCHEMA).items() if not value.get("description")]
    assert not missing
    assert names(DEFAULTS) <= set(described(SCHEMA))


def test_every_described_value_is_in_the_values_file() -> None:
    own = {name for name in described(SCHEMA) if "[]" not in name and "*" not in name}
    own -= {name for name in own if name.startswith(("trainer.", "affinity."))} | {"global"} | FORMER
    assert own == names(DEFAULTS)


def test_unknown_names_are_refused_at_every_level() -> None:
    everything = {"": SCHEMA} | described(SCHEMA)
    everything |= {f"{name}[]": value["items"] for name, value in everything.items() if "items" in value}
    found = {name for name, value in everything.items() if "object" in value.get("type", ())}
    open_to_all = {name for name in found if "additionalProperties" not in everything[name]}
    as_kubernetes_has_them = {"affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity"}
    as_kubernetes_has_them |= {"extraVolumes[].source", "initContainers[]"}
    assert open_to_all == as_kubernetes_has_them | {"global"} | {"checkpoint"}


def nulls(values: Values) -> Values:
    """The same names, all of them null."""
    return {name: nulls(value) if isinstance(value, dict) and value else None for name, value in values.items()}


UNDONE = {
    "whole groups": dict.fromkeys(EVERY_VALUE),
    # A secret and an affinity are removed as a whole, and the ids of podSecurity have a default as a group only.
    "each value": nulls(EVERY_VALUE)
    | {"secrets": {"HF_TOKEN": None}, "affinity": {"nodeAffinity": None}, "podSecurity": None},
}


def test_a_file_sets_every_value_to_something_else() -> None:
    assert names(EVERY_VALUE) >= names(DEFAULTS)
    for group, value in DEFAULTS.items():
        assert value != EVERY_VALUE[group], group
        if isinstance(value, dict):
            assert not [name for name in value.keys() & EVERY_VALUE[group] if value[name] == EVERY_VALUE[group][name]]


@needs_helm
@pytest.mark.parametrize("later", UNDONE.values(), ids=UNDONE)
def test_null_undoes_what_an_earlier_file_set(later: Values, tmp_path: Path) -> None:
    (tmp_path / "later.yaml").write_text(json.dumps(later))
    files = ("-f", str(TESTS / "every-value.yaml"), "-f", str(tmp_path / "later.yaml"))
    done = helm("template", "run1", str(CHART), "-n", "team", *files)
    assert done.returncode == 0, done.stderr
    assert done.stdout == rendered()


@needs_helm
@pytest.mark.parametrize("name", ["gpus", "image", "image.pullPolicy", "trainer.seed", "trainer.data", "extraEnv.A"])
def test_null_on_the_command_line_is_the_default(name: str) -> None:
    assert rendered(f"{name}=null") == rendered()


@needs_helm
def test_null_is_the_value_of_a_setting_where_it_is_not_the_default() -> None:
    assert variables("trainer.checkpoint.every_minutes=null")["DISTRAIN_CHECKPOINT__EVERY_MINUTES"] == "null"
    assert "DISTRAIN_CHECKPOINT__EVERY_STEPS" not in variables("trainer.checkpoint.every_steps=null")


def test_every_value_has_a_comment_above_it() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert not [line for before, line in pairwise(lines) if line[:1].isalpha() and not before.startswith("#")]


def test_what_is_written_from_the_settings_and_values_is_current() -> None:
    check = [sys.executable, str(ROOT / "charts" / "schema.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_sample_is_the_projects_own() -> None:
    assert yaml.safe_load((CHART / "sample.yaml").read_text()) == yaml.safe_load(
        (ROOT / "examples/sample.yaml").read_text()
    )


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


@needs_helm
def test_helm_finds_nothing_to_complain_about() -> None:
    result = helm("lint", "--strict", str(CHART))
    assert result.returncode == 0, result.stdout


@needs_helm
@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_the_same_values_render_to_the_same_bytes(backend: str) -> None:
    arguments = [
        "template",
        "run1",
        str(CHART),
        "-f",
        str(CHART / "examples" / "rdma.yaml"),
        "--set",
        f"backend={backend}",
    ]
    first, second = helm(*arguments), helm(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


TEXTS = [
    # setting, as it is typed, variable
    ("batch.tokens", "1048576", "DISTRAIN_BATCH__TOKENS"),
    ("optimizer.learning_rate", "5e-5", "DISTRAIN_OPTIMIZER__LEARNING_RATE"),
    ("optimizer.learning_rate", "2e-5", "DISTRAIN_OPTIMIZER__LEARNING_RATE"),
    ("optimizer.learning_rate", "0.0003", "DISTRAIN_OPTIMIZER__LEARNING_RATE"),
    ("optimizer.epsilon", "1e-8", "DISTRAIN_OPTIMIZER__EPSILON"),
    ("optimizer.epsilon", "1e-10", "DISTRAIN_OPTIMIZER__EPSILON"),
    ("schedule.max_steps", "100000000", "DISTRAIN_SCHEDULE__MAX_STEPS"),
    ("seed", "2147483647", "DISTRAIN_SEED"),
    ("seed", "0", "DISTRAIN_SEED"),
    ("max_hours", "0.5", "DISTRAIN_MAX_HOURS"),
    ("deterministic", "true", "DISTRAIN_DETERMINISTIC"),
    ("model.compile", "false", "DISTRAIN_MODEL__COMPILE"),
    ("data.text_column", "the text", "DISTRAIN_DATA__TEXT_COLUMN"),
    ("data.files", "/data/*.csv", "DISTRAIN_DATA__FILES"),
    ("schedule.warmup_fraction", "0", "DISTRAIN_SCHEDULE__WARMUP_FRACTION"),
]


@needs_helm
@pytest.mark.parametrize(("setting", "text", "variable"), TEXTS)
def test_a_setting_arrives_as_it_was_written(setting: str, text: str, variable: str) -> None:
    section, _, name = setting.rpartition(".")
    file = (
        f"trainer: {{data: {{name: sample}}, {section}: {{{name}: {text}}}}}"
        if section
        else f"trainer: {{{name}: {text}}}"
    )
    if section == "data":
        file = f"trainer: {{data: {{name: sample, {name}: {text}}}}}"
    assert variables("trainer.data.name=sample", f"trainer.{setting}={text}")[variable] == text
    assert variables(values=file)[variable] == text


@needs_helm
def test_text_stands_for_numbers_and_booleans() -> None:
    """As --set-string writes them."""
    file = "trainer: {data: {name: sample}, quantization: {bits: '4'}, model: {compile: 'true'}, lora: {rank: '8'}}"
    found = variables(values=file)
    assert (found["DISTRAIN_QUANTIZATION__BITS"], found["DISTRAIN_MODEL__COMPILE"]) == ("4", "true")
    settings = read_settings(None, {}, trainer_variables(found))
    assert (settings.quantization.bits, settings.model.compile, settings.lora.rank) == (4, True, 8)


@needs_helm
def test_lists_arrive_as_json() -> None:
    file = "trainer: {data: {files: [/data/a b.csv, /data/c&d.csv]}, optimizer: {betas: [0.9, 0.95]}}"
    found = variables(values=file)
    assert found["DISTRAIN_DATA__FILES"] == '["/data/a b.csv","/data/c&d.csv"]'
    assert found["DISTRAIN_OPTIMIZER__BETAS"] == "[0.9,0.95]"
    found = variables("trainer.data.files={/data/a.csv,/data/b.csv}", "trainer.optimizer.betas={0.9,0.95}")
    assert found["DISTRAIN_DATA__FILES"] == '["/data/a.csv","/data/b.csv"]'
    assert found["DISTRAIN_OPTIMIZER__BETAS"] == '["0.9","0.95"]'


@needs_helm
def test_the_trainer_reads_what_the_chart_wrote() -> None:
    file = """
    trainer:
      task: causal-lm
      data: {files: [/data/a.jsonl, /data/b.jsonl]}
      batch: {tokens: 1048576}
      optimizer: {learning_rate: 5e-5, betas: [0.9, 0.95]}
      checkpoint: {every_minutes: null, background: true}
    """
    settings = read_settings(None, {}, trainer_variables(variables(values=file)))
    assert settings.batch.tokens == 1048576
    assert settings.optimizer.learning_rate == 5e-5
    assert settings.optimizer.betas == (0.9, 0.95)
    assert settings.data.files == ["/data/a.jsonl", "/data/b.jsonl"]
    assert settings.checkpoint.every_minutes is None
    assert settings.checkpoint.background is True
    assert settings.output_dir == "/out/run1"
    assert settings.run_id == "team/run1"
    typed = variables("trainer.data.files={a,b}", "trainer.optimizer.betas={0.9,0.95}", "trainer.batch.tokens=1048576")
    settings = read_settings(None, {}, trainer_variables(typed))
    assert (settings.optimizer.betas, settings.batch.tokens) == ((0.9, 0.95), 1048576)


@needs_helm
def test_without_values_it_is_the_sample_and_a_setting_changes_only_itself() -> None:
    sample = read_settings(str(ROOT / "examples" / "sample.yaml"), {}, {})
    told = read_settings(None, {}, trainer_variables(variables()))
    assert told.model_copy(update={"data": sample.data, "output_dir": sample.output_dir, "run_id": None}) == sample
    assert told.data.name == "sample"
    found = variables("trainer.schedule.warmup_fraction=0", "trainer.seed=7")
    assert (found["DISTRAIN_SCHEDULE__WARMUP_FRACTION"], found["DISTRAIN_SEED"]) == ("0", "7")
    assert found["DISTRAIN_DATA__NAME"] == "sample"


@needs_helm
def test_data_of_ones_own_brings_nothing_of_the_sample_with_it() -> None:
    found = variables("trainer.data.files=/data/a.csv")
    by_the_chart = {"DISTRAIN_DATA__CACHE", "DISTRAIN_OUTPUT_DIR", "DISTRAIN_RUN_ID"}
    assert set(found) == {"DISTRAIN_DATA__FILES"} | by_the_chart


@needs_helm
def test_a_release_stays_far_from_helms_limit() -> None:
    """Helm stores chart, values and manifest as JSON, zipped, in base64, in a Secret of 1 MiB at most."""
    chart = {str(path): path.read_text() for path in CHART.rglob("*") if path.is_file()}
    for backend in ("pytorchjob", "trainjob"):
        manifest = rendered("gpus=65536", f"backend={backend}")
        stored = len(gzip.compress(json.dumps([chart, manifest]).encode())) * 8 // 3
        assert stored < 2**20 / 10, f"{backend}: {stored:,} bytes"


def trainer_variables(found: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in found.items() if name.startswith("DISTRAIN_")}
