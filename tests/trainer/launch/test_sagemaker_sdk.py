"""What SageMaker's own SDK sends for examples/sagemaker_job.py, and that the container takes it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.settings.reader import read_settings
from sagemaker_host import Host

ROOT = Path(__file__).parents[3]
SDK = ROOT / ".venv" / "sagemaker"
ACCOUNT = ROOT / "tests" / "trainer" / "support" / "sagemaker_account.py"
NAMED = (
    *("--image", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/distrain:0.1.0"),
    *("--role", "arn:aws:iam::123456789012:role/SageMaker"),
    *("--train", "s3://runs/train", "--output", "s3://runs/out"),
)

pytestmark = [
    pytest.mark.examples,
    pytest.mark.skipif(not SDK.exists(), reason="make examples-test installs SageMaker's SDK"),
]


def started(*arguments: str) -> dict[str, Any]:
    """The job that the example starts."""
    environment = os.environ | {"PYTHONPATH": str(SDK)}
    command = [sys.executable, str(ACCOUNT), *NAMED, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def host_of(job: dict[str, Any], root: Path, data: Path) -> Host:
    """The folder that the container of this job finds, with `data` as what lies in S3."""
    host = Host(root, {})
    host.write("input/config/hyperparameters.json", job["HyperParameters"])
    for channel in job["InputDataConfig"]:
        host.channel(channel["ChannelName"], data)
    return host


@pytest.mark.parametrize(("named", "kind"), [("basic", "single"), ("accelerated", "ddp")])
def test_the_sdk_starts_a_job_that_the_container_takes(
    named: str, kind: str, bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    job = started("--training-type", named, "--model", str(bert))
    assert job["AlgorithmSpecification"]["TrainingImage"].endswith("/distrain:0.1.0")
    assert "ContainerEntrypoint" not in job["AlgorithmSpecification"]  # the image's own, which is `distrain`
    assert job["EnableManagedSpotTraining"] and job["CheckpointConfig"]["S3Uri"].startswith("s3://runs/out/")
    host = host_of(job, tmp_path, few_texts)
    settings = read_settings(None, host.job.flags(None, {}), {})
    assert (settings.strategy.kind, settings.optimizer.learning_rate, settings.schedule.epochs) == (kind, 2e-5, 3)
    code, said = host.finish()
    assert code == 0, said
    assert (tmp_path / "model" / "config.json").exists()


def test_script_mode_brings_a_folder_and_starts_its_command(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine.yaml").write_text("batch: {micro_batches: 2}\noptimizer: {learning_rate: 1e-4}\n")
    job = started("--source", str(source), "--command", "distrain train mine.yaml", "--model", str(bert))
    assert job["AlgorithmSpecification"]["ContainerEntrypoint"] == ["/bin/bash"]
    assert {channel["ChannelName"] for channel in job["InputDataConfig"]} == {"train", "code", "sm_drivers"}
    assert any(key.endswith("/code/mine.yaml") for key in job["uploaded"])
    host = host_of(job, tmp_path / "opt", few_texts)
    settings = read_settings(str(source / "mine.yaml"), host.job.flags(str(source / "mine.yaml"), {}), {})
    assert (settings.batch.micro_batches, settings.optimizer.learning_rate) == (2, 2e-5)
    assert settings.data.files == [f"{tmp_path}/opt/input/data/train/**/*"]
