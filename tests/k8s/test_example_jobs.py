"""What the heads of examples/ say to type for a cluster is taken, and the sweep on a cluster is a group of runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from helm_cluster import HelmCluster, distrain, needs_helm

pytestmark = needs_helm
ROOT = Path(__file__).parents[2]
IMAGE = ("--set", "image.repository=registry.local/distrain")
JOBS = {
    file: found[1]
    for file in sorted((ROOT / "examples").glob("*.yaml"))
    if (found := re.search(r"^# As a job: (.*)$", file.read_text(), re.MULTILINE))
}
"""Example -> the command in its head."""


@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_the_command_of_an_example_makes_its_job(
    file: Path, there: HelmCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, submit, example, *sizes = shlex.split(JOBS[file])
    assert (program, submit, example) == ("distrain", "submit", f"examples/{file.name}")
    monkeypatch.chdir(ROOT)
    code, out, err = distrain(capsys, "render", example, *sizes, *IMAGE)
    assert code == 0, err
    [job] = [document for document in yaml.safe_load_all(out) if document["kind"] == "PyTorchJob"]
    asked = re.search(r"gpus=(\d+)", JOBS[file])
    [container] = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == int(asked[1] if asked else 0)


def test_the_sweep_on_a_cluster_is_a_group_that_is_compared(
    there: HelmCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        (ROOT / "examples" / "sweep-cluster.sh").read_text().replace("\\\n", "").replace('"$1"', "registry.local/x")
    )
    monkeypatch.chdir(ROOT)
    [submit] = [shlex.split(line)[1:] for line in script.splitlines() if line.startswith("distrain submit")]
    code, out, err = distrain(capsys, *submit)
    assert (code, out.split()) == (0, ["rate-1", "rate-2", "rate-3"]), err
    for number in re.findall(r"\d", re.search(r"for number in (.*);", script)[1]):  # type: ignore[index]
        code, _, err = distrain(capsys, "wait", f"rate-{number}", "--timeout", "0s")
        assert code == 101, err
