"""The cluster that the tests here share, a namespace for each of them, and what is kept when one fails."""

import contextlib
import os
import re
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from cluster import artifacts, engine, lifecycle, registry, shell
from cluster.lifecycle import Cluster
from cluster.namespace import Namespace
from cluster.shell import Failure
from release import ROOT

ARTIFACTS = ROOT / "_artifacts"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, healthy. If made for these tests, it goes when they end, unless KEEP=1 or others use it."""
    with lifecycle.in_use():
        try:
            found = lifecycle.up()
        except Failure as failure:
            artifacts.keep(ARTIFACTS / "cluster", "default")
            pytest.fail(str(failure), pytrace=False)
        yield found
    if found.made and os.environ.get("KEEP") != "1":
        with contextlib.suppress(lifecycle.InUse):
            lifecycle.down()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    made = Namespace(f"{words[:40].strip('-')}-{uuid.uuid4().hex[:5]}")
    made.create()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The trainer's image of this checkout, as pods call it: named by its content, since nodes keep what they have."""
    name = "localhost/distrain:kind"
    with shell.step("building the trainer's image"):
        shell.run(ROOT / "image" / "build", env={"TARGET": "cpu", "IMAGE": name}, timeout=1800)
    content = engine.call("image", "inspect", "--format", "{{.Id}}", name).strip().removeprefix("sha256:")
    tagged = f"localhost/distrain:{content[:12]}"
    engine.call("tag", name, tagged)
    with shell.step("pushing it"):
        return registry.push(tagged)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs train on: the sample's texts, and two small models with random weights."""
    sys.path.append(str(ROOT / "tests" / "trainer"))
    import tiny
    from distrain_trainer.data.sample import write_sample

    folder = tmp_path_factory.mktemp("inputs")
    write_sample(folder / "texts.jsonl")
    for name, build in (("bert", tiny.tiny_bert), ("gpt2", tiny.tiny_gpt2)):
        (folder / name).mkdir()
        build(folder / name)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = getattr(item, "funcargs", {}).get("namespace")
    if used and report.failed and report.when != "teardown":
        folder = ARTIFACTS / item.name
        artifacts.keep(folder, used.name)
        report.sections.append(("artifacts", str(folder)))
    return report
