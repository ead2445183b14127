"""The README as a person types it: its first path in a fresh clone, and every other command it shows."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from distrain_trainer.data.sample import PACKAGES
from runs import RunCommand, losses

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CACHE = Path(os.environ.get("KIND_CACHE") or Path.home() / ".cache" / "distrain-kind")
HELM = shutil.which("helm") or shutil.which("helm", path=CACHE / "bin")
PROGRAMS = ("distrain", "docker", "git", "helm", "kubectl", "make", "pip", "pytest")

TYPED = {
    "distrain evaluate PATH [FILE]": "evaluate {run} {texts}",
    "distrain predict PATH [FILE]": "predict {run} {texts}",
    "distrain merge PATH": "merge {run}",
    "distrain preprocess [FILE]": "preprocess {settings}",
    "distrain plan [FILE]": "plan {settings} --gpus 8 --gpu-memory h100",
    "distrain validate [FILE]": "validate {settings} --strategy.kind zero2 --processes 2",
    "distrain convert FILE": "convert {accelerated}",
    "distrain schema": "schema",
}
"""Command of the README -> what a test types, with its own names."""

ELSEWHERE = {
    "distrain train [FILE]": "the first path types it",
    "distrain sample FILE": "the first path types it",
    "distrain preflight [FILE]": "tests/trainer/launch/test_network.py types it on two nodes",
    "distrain chat PATH": "tests/trainer/inference/test_answers.py::test_chat_answers_each_line_of_a_pipe types it",
    "distrain track RUN": "tests/trainer/reporting/test_trackers.py::test_sending_a_run_again_adds_nothing types it",
    "make chaos-test": "runs tests/kind/chaos.py, as root",
    "distrain push PATH REPO": "needs a Hub: "
    "tests/trainer/hub/test_hub_commands.py::test_a_run_is_pushed_by_its_folder types it against a local one",
    "distrain push-dataset FILES REPO": "needs a Hub: "
    "tests/trainer/hub/test_hub_commands.py::test_files_are_pushed_as_a_data_set types it against a local one",
    "distrain download MODEL [DATASET ...]": "needs a Hub: "
    "tests/trainer/hub/test_download.py::test_a_download_is_enough_for_a_machine_without_internet types it against a "
    "local one",
    "make run": "the first path types it",
    "make docs": "tests/project/test_site.py::test_the_site_asks_no_other_server_for_anything builds the site",
    "make test": "runs this test",
    "make test-matrix": "runs the tests marked matrix in tests/trainer",
    "make gpu-test": "needs a GPU: tests/project/test_gpu_suite.py types it where there is none",
    "make kind-test": "runs tests/kind, as root",
    "make image IMAGE=REGISTRY/distrain:0.1.0 && docker push REGISTRY/distrain:0.1.0": "builds for minutes and needs a "
    "registry: tests/image/test_image.py builds it, tests/kind/conftest.py pushes it",
    "mkdir -p out && docker run --gpus all --shm-size 8g --user $(id -u):0 -v $PWD/out:/out IMAGE train "
    "--model.name ...": "needs the image: tests/image/test_image.py::test_trains_as_any_user_of_group_0",
    "pip install distrain": "tests/k8s/test_installed.py::test_the_client_finds_its_chart installs the wheel",
    "distrain submit mine.yaml --set gpus=16": "needs a cluster: tests/k8s/test_submit.py types it against an API "
    "server of its own, tests/kind/test_client_submit.py::test_the_tutorial on a real one",
    "distrain status": "needs a cluster: tests/kind/test_client_submit.py::test_the_tutorial",
    "kubectl describe pod": "needs a cluster: tests/kind/test_refused.py reads the same message from the pod",
}
"""Command of the README -> the test that types it, or why none does."""


@dataclass(frozen=True)
class Done:
    """A command that was typed: its exit code, and what it printed on either stream."""

    code: int
    printed: str


def typed(block: str) -> list[str]:
    """The commands of a block, without their comments; one with a document or a continued line is one command."""
    commands: list[str] = []
    end = ""
    for line in block.splitlines():
        if end or (commands and commands[-1].endswith("\\")):
            commands[-1] += f"\n{line}"
            end = "" if line == end else end
        else:
            commands.append(re.sub(r"\s+# .*", "", line))
            end = found[1] if (found := re.search(r"<<(\w+)$", line)) else ""
    return commands


def blocks() -> list[tuple[str, str]]:
    """Language and text of every block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def first_path() -> list[str]:
    """What a person types first, from the clone to their own model. `make test` is what runs this."""
    shell = [text for language, text in blocks() if language == "bash"]
    return [command for text in shell[:2] for command in typed(text) if command != "make test"]


def test_every_command_is_typed_by_a_test_or_has_a_reason() -> None:
    assert {language for language, _ in blocks()} == {"bash", "text"}
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
    shown = {text for text in inline if text.split()[0] in PROGRAMS}
    shown |= {command for language, text in blocks() if language == "bash" for command in typed(text)}
    runs_tests = {command for command in shown if command.startswith("pytest ")}
    helm = {command for command in shown if command.startswith("helm ")}
    assert shown - runs_tests - helm - {"make help"} == {*first_path(), *TYPED, *ELSEWHERE}
    for command in runs_tests:
        assert [path for path in shlex.split(command) if path.startswith("tests/") and (ROOT / path).exists()], command
    for reason in ELSEWHERE.values():
        for file, test in re.findall(r"(tests/[\w/.]*\w)(?:::(\w+))?", reason):
            assert (ROOT / file).exists() and (not test or f"def {test}(" in (ROOT / file).read_text()), reason


def environment(home: Path) -> dict[str, str]:
    """That of a shell just opened by a person who has never used distrain, with a Hub that cannot be reached."""
    folders = [folder for folder in os.environ["PATH"].split(":") if not Path(folder, "distrain").exists()]
    return {
        "PATH": ":".join(folders),
        "HOME": str(home),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
        "DISTRAIN_SCHEDULE__MAX_STEPS": "2",  # of 429: for time
        "DISTRAIN_EVALUATION__SAMPLES": "16",
    }


def in_a_fresh_shell(commands: list[str], home: Path) -> list[Done]:
    """Types commands, one after the other."""
    script = "".join(f'{command}\necho "<$?>"\n' for command in commands)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc"],
        input=script,
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    parts = re.split(r"^<(\d+)>\n", done.stdout, flags=re.MULTILINE)
    return [Done(int(code), printed) for printed, code in zip(parts[0:-1:2], parts[1::2], strict=True)]


def shape(line: str) -> str:
    """A line with its numbers masked."""
    return re.sub(r"\d[\d,.:]*[kMGT]?", "0", line).replace("0 GB", "0 MB")


def noise(printed: str) -> list[str]:
    """The lines of a run but JSON, warnings, how far a slow machine is, and those that tell of epochs, of which a short
    run has not three."""
    lines = [line for line in printed.splitlines() if line and not line.startswith(("{", "distrain: ", "epoch "))]
    return [line for line in lines if not line.endswith((" so far", " left"))]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout, and so cannot be cloned")
def test_the_first_path_works_as_it_is_written(tmp_path: Path) -> None:
    clone = tmp_path / "distrain"
    link = (
        f"mkdir .venv && ln -s {sys.prefix}/[!r]* .venv/ && touch .venv/ready "  # no set-up, and the clone's own code
        f"&& export PYTHONPATH={clone}/trainer:{clone}/k8s"
    )
    script: list[str] = []
    for command in first_path():
        if command.endswith("--resume"):
            script.append("export DISTRAIN_SCHEDULE__MAX_STEPS=3")
        script.append(command.replace("REPOSITORY", str(ROOT)))
        if command.startswith("git clone"):
            script.append(link)
    done = dict(zip(script, in_a_fresh_shell(script, tmp_path), strict=True))
    assert {command: result for command, result in done.items() if result.code != 0} == {}

    (shown,) = [text for language, text in blocks() if language == "text"]
    said = {shape(line) for line in done["make run"].printed.splitlines()}
    assert [line for line in shown.splitlines() if shape(line) not in said and not line.startswith("epoch ")] == []
    assert [line for line in noise(done["make run"].printed) if shape(line) not in map(shape, shown.splitlines())] == []
    assert "resuming from checkpoint-2" in done["distrain train mine.yaml --resume"].printed
    assert list(losses(clone / "out" / "mine")) == [1, 2, 3]
    (prediction,) = [result.printed for command, result in done.items() if "predict" in command]
    assert json.loads(prediction.splitlines()[-1])["label"] in PACKAGES
    assert (clone / "out" / "mine" / "report.html").exists()


def test_every_other_command_works(
    lora: Path, bert: Path, few_texts: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    settings = {"model": {"name": str(bert)}, "data": {"files": str(few_texts)}, "strategy": {"kind": "ddp"}}
    (tmp_path / "mine.yaml").write_text(json.dumps(settings))
    run = shutil.copytree(lora, tmp_path / "run")
    names = {"run": run, "texts": few_texts, "settings": tmp_path / "mine.yaml"}
    names["accelerated"] = ROOT / "examples" / "accelerate" / "zero2.yaml"
    for shown, command in TYPED.items():
        assert shown.split()[1] == command.split()[0]
        done = run_command(*(part.format(**names) for part in command.split()))
        assert done.returncode == 0 and done.stdout, (command, done.stderr)


@pytest.mark.skipif(HELM is None, reason=f"there is no helm on PATH or in {CACHE / 'bin'}")
def test_the_chart_installs_as_the_readme_says() -> None:
    (install,) = [command for _, text in blocks() for command in typed(text) if command.startswith("helm install")]
    replaced = install.replace("helm install", f"{HELM} template").replace("REGISTRY", "example.com")
    command = shlex.split(replaced.replace("\\\n", ""))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "kind: PyTorchJob" in done.stdout, done.stderr


def test_make_help_lists_every_target_of_the_readme() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert shown - {"help"} <= set(re.findall(r"make (\S+)", done.stdout))
