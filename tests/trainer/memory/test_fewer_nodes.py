"""A run that may have to go on with fewer nodes needs the memory for it, and is refused at its start otherwise."""

from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.advice import fewer_nodes_problem, read_model
from distrain_trainer.memory.estimate import USED, auto_tokens, fewest_processes, plan
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.storage.run_folder import Claim
from distrain_trainer.training import checks, resolve
from distrain_trainer.training.checks import check_memory_of_fewer

NODES, PROCESSES, TOKENS = 4, 2, 64


def settings_of(model: Path, min_nodes: int | None, kind: str) -> Settings:
    return Settings.model_validate(
        {
            "model": {"name": str(model)},
            "batch": {"tokens": TOKENS},
            "strategy": {"kind": kind},
            "elastic": {"min_nodes": min_nodes},
        }
    )


def room_for(settings: Settings, nodes: int) -> int:
    """Bytes of a device on which the run just fits so many nodes."""
    need = plan(read_model(settings), settings, settings.strategy.kind or "", nodes * PROCESSES, TOKENS).total
    return int(need / USED) + 1


def problem(settings: Settings, memory: int) -> str | None:
    return fewer_nodes_problem(read_model(settings), settings, TOKENS, NODES, PROCESSES, memory, "cuda")


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp"])
def test_shares_that_would_not_fit_fewer_gpus_are_named_with_the_least_that_would_do(bert: Path, kind: str) -> None:
    one = settings_of(bert, 1, kind)
    assert problem(one, room_for(one, 1)) is None
    said = problem(one, room_for(one, 3))
    assert said is not None and said.startswith(f"elastic.min_nodes is 1, but {kind} on 1 node takes 0.")
    assert "MB per GPU, of which " in said and said.endswith(
        "may be filled; set it to 3, or see `distrain plan` for what to change"
    )
    said = problem(one, room_for(one, NODES))
    assert said is not None and "; remove it, or see" in said
    assert problem(settings_of(bert, NODES, kind), 1) is None, "it then never goes on with fewer"
    assert problem(settings_of(bert, None, kind), 1) is None


def test_replicas_take_as_much_on_one_node_as_on_many(bert: Path) -> None:
    assert problem(settings_of(bert, 1, "ddp"), 1) is None


def test_automatic_tokens_are_what_the_fewest_have_room_for(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, memory = ProcessRank(0, NODES * PROCESSES, 0, PROCESSES, 0, NODES), 17_800_000
    tokens = []
    monkeypatch.setattr(resolve, "device_memory", lambda local_rank, local_world: memory)
    for min_nodes, world in ((1, 2), (None, 8)):
        settings = changed(settings_of(bert, min_nodes, "zero3"), {"batch.tokens": "auto"})
        assert fewest_processes(settings, NODES, PROCESSES) == world
        found = resolve.with_tokens_for_memory(settings, process, lambda text: None).batch.tokens
        tokens.append(int(found))
        assert tokens[-1] == auto_tokens(read_model(settings), settings, "zero3", world, memory, "cpu")
    assert tokens[0] < tokens[1]


@pytest.mark.parametrize(
    ("before", "refused"),
    [(None, True), ({"min_nodes": 3, "wait_minutes": 10}, True), ({"min_nodes": 1, "wait_minutes": 10}, False)],
)
def test_it_is_refused_when_it_is_set_and_not_in_the_middle_of_the_run(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any] | None, refused: bool
) -> None:
    settings = settings_of(bert, 1, "fsdp")
    monkeypatch.setattr(checks, "device_memory", lambda local_rank, local_world: room_for(settings, NODES) // 2)
    stored = {"settings": settings.model_dump(mode="json") | {"elastic": before}} if before else None
    claim, process = Claim(tmp_path, settings, stored), ProcessRank(0, NODES * PROCESSES, 0, PROCESSES, 0, NODES)
    if not refused:
        check_memory_of_fewer(settings, claim, process)
        return
    with pytest.raises(SettingsError, match=r"elastic\.min_nodes is 1, but fsdp on 1 node takes .* per process"):
        check_memory_of_fewer(settings, claim, process)
