"""Notices of a machine that is about to be taken away: each cloud's protocol, and what becomes of the run."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest

import metadata
from distrain_trainer.launch import spot
from distrain_trainer.launch.spot import server, watch
from distrain_trainer.settings.sections import Cloud
from metadata import MetadataServer
from runs import digest, finish, losses, metrics, train
from two_nodes import Cluster

CLOUDS: tuple[Cloud, ...] = get_args(Cloud)


@pytest.fixture(params=CLOUDS)
def service(request: pytest.FixtureRequest) -> Iterator[MetadataServer]:
    with metadata.serve(request.param) as made:
        yield made


def test_there_is_no_notice_until_there_is_one(service: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "CHANGE_SECONDS", 0.2)
    asked = server(service.cloud, service.environment)
    assert [asked.notice() for _ in range(3)] == [None, None, None]
    service.take_away()
    assert (asked.notice() or "").startswith(
        {
            "aws": "AWS will terminate this instance at 2026-09-18T08:22:00Z",
            "gcp": "Google Cloud preempts this instance",
            "azure": "Azure evicts this instance, not before Mon, 19 Sep 2026",
        }[service.cloud]
    )


def test_a_server_that_answers_nothing_for_a_while_is_asked_again(
    service: MetadataServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spot, "EVERY", 0.01)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # these servers are never behind one
    service.failing, left = True, threading.Event()
    thread = threading.Thread(target=watch, args=(service.cloud, left.set), daemon=True)
    thread.start()
    while len(service.asked) < 5:
        assert not left.wait(0.01)
    service.failing = False
    assert not left.wait(0.2)
    service.take_away()
    assert left.wait(30)
    thread.join(30)
    said = capsys.readouterr().err
    assert said.count("gives no notices of") == 1 and "this node saves and leaves, as after SIGTERM" in said


def test_a_token_that_is_over_is_replaced() -> None:
    with metadata.serve("aws") as service:
        asked = server("aws", service.environment)
        assert asked.notice() is None
        service.tokens.clear()
        service.take_away()
        assert asked.notice() is None and asked.notice() is not None


def test_an_event_of_another_machine_or_of_another_kind_is_no_notice() -> None:
    with metadata.serve("azure") as service:
        service.take_away(machine="gpu-vm_2")
        service.take_away(kind="Freeze")
        assert server("azure", service.environment).notice() is None


def test_without_the_clouds_variables_the_usual_address_is_asked() -> None:
    assert {server(cloud, {}).address for cloud in CLOUDS} == {"http://169.254.169.254"}
    assert server("gcp", {"GCE_METADATA_HOST": "10.0.0.1:80"}).address == "http://10.0.0.1:80"


@pytest.mark.matrix
def test_a_notice_to_one_node_has_all_save_and_that_node_leave(bert: Path, texts: Path, tmp_path: Path) -> None:
    steps = ("--schedule.max_steps", "200", "--checkpoint.every_minutes", "null", "--run_id", "space/run1")
    whole = tmp_path / "whole"
    finish(train(bert, texts, whole, 2, *steps))
    cluster = Cluster(bert, texts, tmp_path / "out", *steps, "--checkpoint.spot_notices", "aws")
    with ExitStack() as stack:
        servers = [stack.enter_context(metadata.serve("aws")) for _ in range(3)]
        nodes = [cluster.node(index, environment=servers[index].environment) for index in (0, 1)]
        assert nodes[0].wait_for(lambda: nodes[0].step() >= 8), nodes[0].process.communicate()[1]
        servers[1].take_away()
        said = nodes[1].process.communicate(timeout=120)[1]
        assert nodes[1].process.returncode == 143, said
        assert "AWS will terminate this instance at 2026-09-18T08:22:00Z: this node saves and leaves" in said
        assert nodes[0].process.poll() is None
        nodes[1] = cluster.node(1, environment=servers[2].environment)  # on another machine
        for node in nodes:
            said = node.process.communicate(timeout=300)[1]
            assert node.process.returncode == 0, said
            assert "Traceback" not in said
    events = [(line["event"], line["step"]) for line in metrics(cluster.output) if "event" in line]
    preempted, resumed = (next(step for name, step in events if name == event) for event in ("preempted", "resume"))
    assert preempted == resumed > 0, "all have saved at the same step, and nothing is done twice"
    assert digest(cluster.output / "final") == digest(whole / "final")
    assert losses(cluster.output) == losses(whole)
