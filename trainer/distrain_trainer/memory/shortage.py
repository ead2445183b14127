"""What to change about a run that is out of memory: the settings most likely to help, with what each saves."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.advice import size
from distrain_trainer.memory.estimate import kind_of, plan
from distrain_trainer.memory.model_shapes import Weights
from distrain_trainer.settings.model import MAY_CHANGE, Settings, changed
from distrain_trainer.settings.sections import ZERO

SHOWN = 3
"""Changes that a sentence names."""
WORTH = 0.01
"""What a change saves at least to be named, as a part of what the run takes."""
Change = Mapping[str, object]


@dataclass(frozen=True)
class Device:
    """Whose memory is used up: of one of `processes` of a run. kind: cuda or cpu. memory: bytes, None where that is not
    known."""

    kind: str
    processes: int
    memory: int | None = None


@dataclass(frozen=True)
class Remedy:
    """Settings to change. saved: bytes per process by the memory plan, None where that does not know the model."""

    change: Change
    saved: int | None = None

    def __str__(self) -> str:
        typed = " with ".join(f"{name}={str(value).lower()}" for name, value in self.change.items())
        return typed if self.saved is None else f"{typed} ({size(self.saved)} less)"


def remedies(settings: Settings, weights: Weights | None, device: Device) -> list[Remedy]:
    """The changes most likely to help where a device's memory is used up: at most three, the best first.

    weights: of the model, None where they are not known. With them the changes come in order of what they save by the
    memory plan, and those that train something else, such as an adapter, only where the others together save too
    little. Without them they come in the order in which they usually help.
    """
    mild = _rated(_mild(settings, device), settings, weights, device)
    drastic = _rated(_drastic(settings), settings, weights, device)
    need = _need(settings, weights, device)
    if need is None:
        return (mild + drastic)[:SHOWN]
    mild = sorted((one for one in mild if (one.saved or 0) > WORTH * need), key=_most_first)[:SHOWN]
    drastic.sort(key=_most_first)
    least = _need(_with_all(settings, mild), weights, device)
    enough = device.memory is None or least is None or least <= device.memory
    return (mild + drastic if enough else drastic + mild)[:SHOWN]


def host_remedies(settings: Settings) -> list[Remedy]:
    """The changes that take memory from the host of a GPU, at most three, the best first."""
    changes: list[Change] = [
        {"strategy.offload_optimizer": False},
        {"strategy.offload_parameters": False},
        {"data.workers": settings.data.workers // 2},
        {"checkpoint.background": False},
    ]
    return _rated(changes, settings, None, Device("cuda", 1))[:SHOWN]


def sentence_of(found: Iterable[Remedy]) -> str:
    """`most likely to help, in this order: ...`, and which of it a run may change when it resumes. Empty for none."""
    found = list(found)
    if not found:
        return ""
    kept = [", ".join(one.change) for one in found if all(name in MAY_CHANGE for name in one.change)]
    resume = f"; --resume takes {' and '.join(kept)}" if kept else ""
    return f"most likely to help, in this order: {', '.join(map(str, found))}{resume}"


def _mild(settings: Settings, device: Device) -> list[Change]:
    """Changes that train the same, in the order in which they usually help."""
    kind, tokens = kind_of(settings, device.processes), settings.batch.tokens
    found: list[Change] = [{"model.gradient_checkpointing": True}]
    if settings.precision == "fp32":
        found.append({"precision": "bf16"})
    if tokens != "auto" and tokens // 2 >= settings.row_tokens(settings.data.max_length or 1):
        found.append({"batch.tokens": tokens // 2})
    if device.processes > 1:
        following = {"single": "zero2", "ddp": "zero2", "zero1": "zero2", "zero2": "zero3"}
        found += [{"strategy.kind": following[kind]}] if kind in following else []
    if kind in ZERO and device.kind == "cuda":
        found.append({"strategy.offload_optimizer": True})
    if settings.optimizer.name == "adamw":
        found.append({"optimizer.name": "adamw_8bit"})
    return found


def _drastic(settings: Settings) -> list[Change]:
    """Changes that train something else."""
    if settings.lora.rank is None:
        return [{"lora.rank": 16}]
    return [{"quantization.bits": 4}] if settings.quantization.bits is None else []


def _rated(changes: Iterable[Change], settings: Settings, weights: Weights | None, device: Device) -> list[Remedy]:
    """Those of some changes that change something and that the settings take."""
    before, found = _need(settings, weights, device), []
    for change in changes:
        try:
            new = changed(settings, change)
        except SettingsError:
            continue
        if new != settings:
            after = _need(new, weights, device)
            found.append(Remedy(change, None if before is None or after is None else before - after))
    return found


def _with_all(settings: Settings, found: Iterable[Remedy]) -> Settings:
    """The settings with all changes that go together, the first ones first."""
    for one in found:
        with suppress(SettingsError):
            settings = changed(settings, one.change)
    return settings


def _need(settings: Settings, weights: Weights | None, device: Device) -> int | None:
    """Bytes per process by the memory plan, None where it does not know."""
    tokens = settings.batch.tokens
    if weights is None or tokens == "auto":
        return None
    try:
        return plan(weights, settings, kind_of(settings, device.processes), device.processes, tokens, device.kind).total
    except SettingsError:  # a file of DeepSpeed's that is gone
        return None


def _most_first(remedy: Remedy) -> int:
    return -(remedy.saved or 0)
