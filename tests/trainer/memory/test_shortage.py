"""Out of memory: what helps is named in order of what it saves by the memory plan."""

from pathlib import Path
from typing import Any

import pytest

from distrain_trainer.memory.estimate import kind_of, plan
from distrain_trainer.memory.model_shapes import Weights, read_folder, weights_of
from distrain_trainer.memory.shortage import Device, Remedy, host_remedies, remedies, sentence_of
from distrain_trainer.settings.model import Settings, changed, nested

GIB = 2**30


@pytest.fixture(scope="module")
def weights(gpt2: Path) -> Weights:
    """What is known of a small decoder."""
    return weights_of(*read_folder(gpt2), "causal-lm")


def settings_of(**values: Any) -> Settings:
    return Settings.model_validate(nested({"task": "causal-lm", "model.name": "a-model"} | values))


def need(weights: Weights, settings: Settings, device: Device) -> int:
    """Bytes per process by the memory plan."""
    assert settings.batch.tokens != "auto"
    world = device.processes
    return plan(weights, settings, kind_of(settings, world), world, settings.batch.tokens, device.kind).total


@pytest.mark.parametrize("device", [Device("cuda", 1, GIB), Device("cuda", 8, GIB), Device("cpu", 2, GIB)])
def test_changes_come_in_order_of_what_the_plan_says_that_they_save(weights: Weights, device: Device) -> None:
    settings = settings_of()
    found = remedies(settings, weights, device)
    saved = [need(weights, settings, device) - need(weights, changed(settings, one.change), device) for one in found]
    assert [one.saved for one in found] == saved == sorted(saved, reverse=True)
    assert 1 <= len(found) <= 3 and saved[-1] > 0
    assert not any("lora.rank" in one.change for one in found)


def test_an_adapter_comes_first_only_where_nothing_milder_would_do(weights: Weights) -> None:
    small = Device("cuda", 1, need(weights, settings_of(), Device("cuda", 1)) // 100)
    assert dict(remedies(settings_of(), weights, small)[0].change) == {"lora.rank": 16}
    assert dict(remedies(settings_of(**{"lora.rank": 8}), weights, small)[0].change) == {"quantization.bits": 4}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ["model.gradient_checkpointing", "precision", "batch.tokens"]),
        ({"model.gradient_checkpointing": True}, ["precision", "batch.tokens", "strategy.kind"]),
        (
            {"model.gradient_checkpointing": True, "precision": "bf16", "strategy.kind": "zero2"},
            ["batch.tokens", "strategy.kind", "strategy.offload_optimizer"],
        ),
        ({"data.max_length": 4096}, ["model.gradient_checkpointing", "precision", "strategy.kind"]),
    ],
)
def test_where_the_model_is_not_known_what_is_not_yet_on_comes_in_the_usual_order(
    values: dict[str, Any], names: list[str]
) -> None:
    found = remedies(settings_of(**values), None, Device("cuda", 8))
    assert [name for one in found for name in one.change] == names


def test_a_host_beside_a_gpu_is_relieved_of_what_is_kept_there() -> None:
    assert host_remedies(settings_of()) == []
    settings = settings_of(
        **{
            "data.workers": 4,
            "checkpoint.background": True,
            "strategy.kind": "zero2",
            "strategy.offload_optimizer": True,
        }
    )
    assert sentence_of(host_remedies(settings)) == (
        "most likely to help, in this order: strategy.offload_optimizer=false, data.workers=2, "
        "checkpoint.background=false; --resume takes strategy.offload_optimizer and data.workers and "
        "checkpoint.background"
    )


def test_a_sentence_names_what_is_saved_and_what_a_resume_takes() -> None:
    assert sentence_of([]) == ""
    found = [Remedy({"precision": "bf16"}, 3_100_000_000), Remedy({"model.gradient_checkpointing": True}, 12_000_000)]
    assert sentence_of(found) == (
        "most likely to help, in this order: precision=bf16 (3.1 GB less), model.gradient_checkpointing=true (12.0 MB "
        "less); --resume takes model.gradient_checkpointing"
    )
