"""SageMaker's contract: `train` and a folder that describes the job, and where it looks for what comes of it."""

import json
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from distrain_trainer.errors import SettingsError
from distrain_trainer.launch.sagemaker import job_here
from distrain_trainer.settings.reader import read_settings
from runs import COMMAND, Victim, digest, finish, losses, train
from sagemaker_host import ADDED_BY_THE_SDK, Host

SMALL = {
    "data.evaluation_fraction": 0.15,
    "batch.tokens": 256,
    "batch.samples": None,
    "batch.micro_batches": 4,
    "optimizer.learning_rate": 1e-3,
    "schedule.max_steps": 40,
    "checkpoint.every_steps": 5,
}


@pytest.mark.parametrize("encoded", [True, False], ids=["as the SDK writes them", "as plain text"])
def test_hyperparameters_are_settings_by_their_names(tmp_path: Path, encoded: bool) -> None:
    host = Host(tmp_path, {})
    meant = {"model.name": "owner/bert", "optimizer.learning_rate": 2e-4, "deterministic": True, "batch.samples": None}
    lists = {"optimizer.betas": [0.8, 0.9], "lora.rank": 4, "lora.target_modules": ["query", "value"]}
    text = {
        name: json.dumps(value) if encoded or not isinstance(value, str) else value
        for name, value in (meant | lists).items()
    }
    host.write("input/config/hyperparameters.json", text | ADDED_BY_THE_SDK)
    settings = read_settings(None, host.job.flags(None, {}), {})
    assert (settings.model.name, settings.optimizer.learning_rate) == ("owner/bert", 2e-4)
    assert (settings.deterministic, settings.batch.samples) == (True, None)
    assert (settings.optimizer.betas, settings.lora.target_modules) == ((0.8, 0.9), ["query", "value"])


def test_they_stand_where_the_command_line_does_which_goes_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRAIN_SEED", "1")
    monkeypatch.setenv("DISTRAIN_BATCH__TOKENS", "512")
    host = Host(tmp_path, {"seed": 2, "batch.tokens": 1024})
    settings = read_settings(None, host.job.flags(None, {"batch.tokens": "2048"}))
    assert (settings.seed, settings.batch.tokens) == (2, 2048)


@pytest.mark.parametrize(("named", "kind", "processes"), [("basic", "single", 1), ("accelerated", "ddp", None)])
def test_training_type_names_a_strategy(tmp_path: Path, named: str, kind: str, processes: int | None) -> None:
    host = Host(tmp_path, {"training_type": named})
    assert read_settings(None, host.job.flags(None, {}), {}).strategy.kind == kind
    assert host.job.processes == processes


REFUSED = [
    ({"training_type": "fast"}, "training_type is 'fast'; choose basic or accelerated"),
    ({"training_type": "basic", "strategy.kind": "ddp"}, "contradict each other; keep one of them"),
    ({"learning_rate": 1}, "the hyperparameter learning_rate is not a setting; did you mean optimizer.learning_rate?"),
    ({"optimizer.learning_rate": "fast"}, "the hyperparameter optimizer.learning_rate is 'fast', but it should be"),
    ({"processes": "two"}, "the hyperparameter processes is 'two'; give 1 or more"),
]


@pytest.mark.parametrize(("hyperparameters", "sentence"), REFUSED)
def test_a_mistake_is_one_sentence(tmp_path: Path, hyperparameters: Mapping[str, Any], sentence: str) -> None:
    job = Host(tmp_path, hyperparameters).job
    with pytest.raises(SettingsError, match=sentence.replace("?", r"\?")):
        assert job.flags(None, {}) and job.processes


def test_channels_are_the_data_where_nobody_has_named_others(texts: Path, tmp_path: Path) -> None:
    host = Host(tmp_path, {}).channel("train", texts).channel("validation", texts).channel("unknown", texts)
    data = read_settings(None, host.job.flags(None, {}), {}).data
    channels = tmp_path / "input" / "data"
    assert (data.files, data.evaluation_files) == ([f"{channels}/train/**/*"], [f"{channels}/validation/**/*"])
    data = read_settings(None, host.job.flags(None, {"data.name": "imdb"}), {}).data
    assert (data.name, data.files, data.evaluation_files) == ("imdb", None, None)
    data = read_settings(None, host.job.flags(None, {"data.files": "a.csv", "data.evaluation_split": "test"}), {}).data
    assert (data.files, data.evaluation_files) == (["a.csv"], None)
    (channels / "train" / "state.json").write_text("{}")
    data = read_settings(None, host.job.flags(None, {}), {}).data
    assert data.files == [f"{channels}/train"], "a folder of save_to_disk is read as one"


def test_the_runs_folder_is_that_of_checkpoints_and_with_several_hosts_one_that_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Host(tmp_path / "alone", {})
    assert alone.job.flags(None, {})["output_dir"] == str(alone.root / "checkpoints")
    one_of_two = Host(tmp_path / "two", {}, ("algo-2", "algo-1"), "algo-2")
    assert one_of_two.job.index == 1
    with pytest.raises(SettingsError, match=r"has 2 hosts, which must write into one folder, .*a channel `output`"):
        one_of_two.job.flags(None, {})
    assert "output_dir" in one_of_two.job.flags(None, {"output_dir": "/shared/run1"})
    one_of_two.channel("output", alone.root)
    monkeypatch.setenv("TRAINING_JOB_NAME", "job-7")
    assert one_of_two.job.flags(None, {})["output_dir"] == str(one_of_two.root / "input" / "data" / "output" / "job-7")


def test_outside_of_sagemaker_there_is_no_job(tmp_path: Path) -> None:
    assert job_here({"SAGEMAKER_BASE_DIR": str(tmp_path)}) is None
    host = Host(tmp_path / "ml", {})
    assert job_here(host.environment | {"PET_NNODES": "2"}) is None


def test_why_a_job_has_failed_is_left_where_sagemaker_looks_for_it(tmp_path: Path) -> None:
    host = Host(tmp_path, {"batch.tokn": 8})
    code, said = host.finish()
    assert code == 64, said
    assert host.failure == "the hyperparameter batch.tokn is not a setting; did you mean batch.tokens?"
    assert said.strip() == f"distrain: {host.failure}"
    host.write("input/config/hyperparameters.json", {})
    (host.root / "input/config/hyperparameters.json").write_text("{")
    assert host.finish()[0] == 64
    assert host.failure is not None and "hyperparameters.json cannot be read: " in host.failure


def test_a_job_leaves_its_model_and_its_records(bert: Path, texts: Path, tmp_path: Path) -> None:
    host = Host(tmp_path, SMALL | {"model.name": str(bert), "training_type": "basic", "schedule.max_steps": 2})
    code, said = host.channel("training", texts).channel("test", texts).finish()
    assert code == 0, said
    model = AutoModelForSequenceClassification.from_pretrained(host.root / "model", use_safetensors=True)
    assert model.config.id2label == {0: "animals", 1: "films", 2: "numbers"}
    left = {path.name for path in (host.root / "output" / "data").iterdir()}
    assert left >= {"metrics.jsonl", "report.html", "training_info.json"}
    assert host.failure is None


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path: Path) -> None:
    host = Host(tmp_path, {})
    (tmp_path / "model").write_text("")
    code, said = host.finish()
    assert code == 74, said
    assert host.failure is not None and "model cannot be written: File exists; " in host.failure
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def whole(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, started by a command line and undisturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(train(bert, texts, output, 2, "--schedule.max_steps", "40", "--checkpoint.every_steps", "5"))
    return output


@pytest.mark.matrix
def test_a_job_that_is_stopped_and_killed_leaves_the_model_that_it_would_have_had(
    bert: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path, SMALL | {"model.name": str(bert), "training_type": "accelerated", "processes": 2})
    host.channel("training", texts)
    checkpoints = host.root / "checkpoints"
    run = host.start(checkpoints)
    assert run.wait_for(lambda: run.step() >= 7), run.process.communicate()[1]
    run.process.send_signal(signal.SIGTERM)
    said = run.process.communicate(timeout=120)[1]
    assert run.process.returncode == 143, said
    assert host.failure is None
    stopped = AutoModelForSequenceClassification.from_pretrained(host.root / "model", use_safetensors=True)
    assert stopped.config.id2label == {0: "animals", 1: "films", 2: "numbers"}
    assert not list((host.root / "model").glob("optimizer*"))

    run = host.start(checkpoints)
    assert run.wait_for(lambda: run.step() >= 17), run.process.communicate()[1]
    run.kill()
    code, said = host.finish()
    assert code == 0, said
    assert digest(host.root / "model") == digest(whole / "final")
    assert losses(checkpoints) == losses(whole)


@pytest.mark.matrix
def test_two_hosts_that_are_killed_and_started_again_leave_one_model(
    bert: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    ml, shared, names = tmp_path / "ml", tmp_path / "shared", ("127.0.0.1", "127.0.0.2")
    ml.mkdir()
    shared.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        environment = {"SAGEMAKER_BASE_DIR": str(ml), "MASTER_PORT": str(listener.getsockname()[1])}
    hosts = [Host(tmp_path / name, SMALL | {"model.name": str(bert), "processes": 1}, names, name) for name in names]
    for host in hosts:
        host.channel("train", texts).channel("output")

    def container(host: Host) -> list[str]:
        """What starts a command where a host's folder is at the place that is the same on all hosts."""
        mounts = f'mount --bind {host.root} {ml} && mount --bind {shared} {ml}/input/data/output && exec "$@"'
        return ["unshare", "-m", "sh", "-c", mounts, "sh"]

    tried = subprocess.run([*container(hosts[0]), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs mounts of its own, and unshare says: {tried.stderr.strip()}")

    def start() -> list[Victim]:
        own = environment | {"OMP_NUM_THREADS": "1"}
        return [Victim(["train"], shared, own, [*container(host), *COMMAND]) for host in hosts]

    runs = start()
    assert runs[0].wait_for(lambda: runs[0].step() >= 12), runs[0].process.communicate()[1]
    for run in runs:
        run.kill()
    for run in start():
        said = run.process.communicate(timeout=300)[1]
        assert run.process.returncode == 0, said
        assert "Traceback" not in said
    assert digest(hosts[0].root / "model") == digest(whole / "final")
    assert losses(shared) == losses(whole)
    assert not list((hosts[1].root / "model").iterdir()), "the first host leaves the model"
    assert "node 1 (127.0.0.2)" in (shared / "logs" / "node-1.attempt-1.log").read_text()
